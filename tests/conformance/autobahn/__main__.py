"""``python -m tests.conformance.autobahn --wstest PROGRAM``; see the package."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Final

from tests.support.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[3]
#: No limit of size: the suite sends messages of 16 MiB.
OPTIONS: Final = ("--websocket-max-message-size", "0", "--websocket-max-frame-size", "0", "--websocket-compression")
_SITES: Final = "tests.conformance.autobahn.sites:"
#: One worker, which answers in the order of the messages.
AGENTS: Final = {
    "layer": ("--inline-workers", "1", _SITES + "layer"),
    "wsgi": ("--wsgi", _SITES + "wsgi"),
    "asgi": ("--asgi", _SITES + "asgi"),
}
#: What the suite says of a case that is not one of these is a failure.
PASSED: Final = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED")
PATIENCE: Final = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.autobahn", description="Run the original Autobahn test suite.")
    parser.add_argument("--wstest", required=True, help="the program of autobahntestsuite, which needs Python 2.7")
    parser.add_argument("--only", choices=AGENTS, action="append", help="this kind of application; may be repeated")
    parser.add_argument("--case", action="append", help="this case, or these, such as 9.* (all)")
    parser.add_argument("--keep-context", action="store_true", help="let compressed messages refer to earlier ones")
    parser.add_argument("--reports", type=Path, metavar="DIRECTORY", help="where the suite's pages go")
    arguments = parser.parse_args()
    reports: Path = (arguments.reports or Path(tempfile.mkdtemp(prefix="autobahn-"))).resolve()
    failed = 0
    for name in arguments.only or AGENTS:
        failed += run(name, arguments.wstest, reports / name, arguments.case or ["*"], keep_context=arguments.keep_context)
    print(f"pages: {reports}")
    return 1 if failed else 0


def run(name: str, wstest: str, reports: Path, cases: list[str], *, keep_context: bool) -> int:
    """Run ``cases`` against one kind of application and print what the suite says; returns the number of failures."""
    port = free_port()
    options = (*OPTIONS, *(["--websocket-keep-context"] if keep_context else []))
    server = subprocess.Popen([sys.executable, "-m", "greendaphne", "-v", "0", "-p", str(port), *options, *AGENTS[name]], cwd=ROOT)
    try:
        await_answer(port)
        reports.mkdir(parents=True, exist_ok=True)
        url = f"ws://127.0.0.1:{port}"
        specification = {
            "outdir": str(reports),
            "servers": [{"agent": name, "url": url, "options": {"version": 18}}],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        path = reports / "specification.json"
        path.write_text(json.dumps(specification), encoding="utf-8")
        with open(reports / "output.txt", "wb") as output:
            subprocess.run([wstest, "-m", "fuzzingclient", "-s", str(path)], check=True, stdout=output, stderr=output, cwd=reports)
    finally:
        server.terminate()
        server.wait(PATIENCE)
    results = json.loads((reports / "index.json").read_text(encoding="utf-8"))[name]
    print(f"{name}: {len(results)} cases: {_counts(results, 'behavior')}; closing handshakes: {_counts(results, 'behaviorClose')}")
    failures = [case for case, result in results.items() if not {result["behavior"], result["behaviorClose"]} <= set(PASSED)]
    for case, result in results.items():
        if {result["behavior"], result["behaviorClose"]} != {"OK"}:
            print(f"  {case}: {result['behavior']}, closing {result['behaviorClose']}")
    sys.stdout.flush()
    return len(failures)


def _counts(results: dict[str, dict[str, str]], key: str) -> str:
    counts = Counter(result[key] for result in results.values())
    return ", ".join(f"{count} {said}" for said, count in counts.most_common())


def await_answer(port: int) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(main())
