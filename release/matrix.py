"""Run the tests on each Python of this machine: ``make test-all``.

Each version has environments of its own in ``.cache/environments``.  A failure does not end the run; the table at the end shows what
failed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from release.environments import KEPT, ROOT, VERSIONS, interpreters, say
from release.report import Row, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", choices=VERSIONS, help="only this version; may be repeated")
    parser.add_argument("--make", default="make", help="the command of make")
    parser.add_argument("--arguments", default="", help="what pytest gets, as ARGS of make test; the whole suite without it")
    options = parser.parse_args()
    rows = []
    for version, interpreter in interpreters(options.python or VERSIONS).items():
        if interpreter is None:
            rows.append(Row(version, "not on this machine", True))
            continue
        say(f"Python {version}: {interpreter}")
        started = time.monotonic()
        variables = [f"PYTHON={interpreter}", f"VENV={KEPT / version}", f"MODERN={KEPT / version}-modern", f"ARGS={options.arguments}"]
        code = subprocess.run([options.make, "--no-print-directory", "test", *variables], cwd=ROOT, check=False).returncode
        rows.append(Row(version, "passed" if code == 0 else f"failed, exit code {code}", code == 0, time.monotonic() - started))
    sys.exit(report(rows))


if __name__ == "__main__":
    main()
