"""Programs that asyncio starts, on a HubLoop and on a loop of asyncio's own in a greenlet, patched and not.

Each test has a process of its own: gevent collects the exit codes of all children once a process has had more than one of its default
loops.
"""

from __future__ import annotations

import pytest

from tests.support.scripts import run_script

SUBPROCESSES = """
    import asyncio, signal, subprocess
    import gevent
    from greendaphne.aio.hub import install
    assert install()
    from greendaphne.aio.loop import HubLoop

    async def shout(number):
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", f"tr a-z A-Z; exit {number}", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate(b"hello")
        return output, process.returncode

    async def killed():
        process = await asyncio.create_subprocess_shell("exec sleep 60")
        process.kill()
        return await process.wait()

    async def main():
        assert await asyncio.gather(*(shout(number) for number in range(8))) == [(b"HELLO", number) for number in range(8)]
        assert await killed() == -signal.SIGKILL
        return "done"

    def on_own_loop():
        loop = asyncio.new_event_loop()
        result = loop.run_until_complete(main())
        loop.close()
        return result
"""
ON_HUB_LOOP = """
    loop = HubLoop()
    loop.start()
    with gevent.Timeout(60):
        print(loop.run_from_greenlet(main()))
        assert loop.shutdown()
"""
IN_GREENLETS = """
    greenlets = [gevent.spawn(on_own_loop) for _ in range(4)]
    with gevent.Timeout(60):
        gevent.joinall(greenlets, raise_error=True)
    print(*{greenlet.value for greenlet in greenlets})
"""


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_on_a_hub_loop(patched: bool) -> None:
    assert run_script(SUBPROCESSES + ON_HUB_LOOP, patched=patched) == "done"


def test_in_greenlets() -> None:
    assert run_script(SUBPROCESSES + IN_GREENLETS) == "done"
