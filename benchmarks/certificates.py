"""How long the hub is held up while certificates are obtained.

    python benchmarks/certificates.py [--hosts 20]

pebble issues to a server in a process of its own, once in one that gevent has patched and once in one that it has not.  In the server's hub
a greenlet sleeps for a millisecond again and again: what it is late by is how long the hub did something else, or waited for the
interpreter that the other thread had.  On a machine with other work the process waits for a core as well; so the smaller of the lateness
and of the CPU time that the whole process used meanwhile is given, too, which is the most that can be the server's own doing.  The first
second, before anything is due, is for comparison.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, process_time

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: Seconds for all certificates.
PATIENCE = 120.0
#: Seconds that the probe sleeps, and for which it runs before anything is due.
SLEEP = 0.001
BEFORE = 1.0


class Probe:
    """Sleeps in the hub and keeps how late it was, and how much of that the process can have computed; both in seconds."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.computed: list[float] = []

    def run(self) -> None:
        """Probe until it is killed."""
        import gevent

        last, used = monotonic(), process_time()
        while True:
            gevent.sleep(SLEEP)
            now, computed = monotonic(), process_time()
            self.late.append(now - last - SLEEP)
            self.computed.append(min(now - last - SLEEP, computed - used))
            last, used = now, computed

    def report(self) -> str:
        """The worst of it, in milliseconds."""
        late, computed = sorted(self.late), sorted(self.computed)
        percentile = late[int(len(late) * 0.99)]
        own = f"its own doing {computed[-1] * 1000:.1f} ms"
        return f"late by at most {late[-1] * 1000:.1f} ms, {own}, 99 % of the time by {percentile * 1000:.1f} ms or less"


def serve(mode: str, url: str, ca: str, descriptor: int, hosts: int) -> None:
    """Obtain certificates for ``hosts`` names and print how late the hub was."""
    if mode == "patched":
        from gevent import monkey

        monkey.patch_all()
    import gevent

    from greendaphne.acme import AcmeOptions
    from greendaphne.layers.memory import MemoryChannelLayer
    from greendaphne.net.endpoints import quote
    from greendaphne.server import Server

    with tempfile.TemporaryDirectory() as directory:
        names = tuple(f"host{number}.example.test" for number in range(hosts))
        endpoint = f"acme:{quote(url)}:{quote(directory)}:fd:{descriptor}"
        options = AcmeOptions(agree_tos=True, ca=ca, domains=names)
        began = monotonic()
        server = Server(MemoryChannelLayer(), endpoints=[endpoint], acme=options, signal_handlers=False)
        print(f"{mode:>10}: {(monotonic() - began) * 1000:.0f} ms to make the server, the ACME library's import included")
        probe = Probe()
        greenlet = gevent.spawn(probe.run)
        gevent.sleep(BEFORE)
        print(f"{'':>10}  before: {probe.report()}")
        probe.late.clear()
        probe.computed.clear()
        with server:
            began = monotonic()
            assert server.certificates is not None
            (manager,) = server.certificates.managers
            while manager.issued < hosts:
                assert monotonic() - began < PATIENCE, f"{manager.issued} of {hosts} certificates"
                gevent.sleep(0.01)
            print(f"{'':>10}  {hosts} certificates in {monotonic() - began:.1f} s: {probe.report()}")
        greenlet.kill()


def main() -> None:
    """Run a server of each kind against one authority."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=20, help="how many certificates (default 20)")
    parser.add_argument("--serve", nargs=4, metavar=("MODE", "URL", "CA", "FD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        mode, url, ca, descriptor = arguments.serve
        serve(mode, url, ca, int(descriptor), arguments.hosts)
        return
    from tests.support.acme import pebble

    with tempfile.TemporaryDirectory() as directory, pebble(Path(directory)) as authority:
        for mode in ("patched", "unpatched"):
            descriptor = os.dup(authority.https.fileno())
            command = [sys.executable, __file__, "--hosts", str(arguments.hosts)]
            command += ["--serve", mode, authority.url, str(authority.ca), str(descriptor)]
            subprocess.run(command, pass_fds=[descriptor], check=True)
            os.close(descriptor)


if __name__ == "__main__":
    main()
