"""What the garbage collector of a serving command looks at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import Command, get, write

APPLICATION = """
import gc
from weakref import ref

imported = [[] for _ in range(100_000)]


class Circle:
    def __init__(self):
        self.itself = self


def app(environ, start_response):
    start_response("200 OK", [])
    circle = ref(Circle())
    gc.collect()
    return [b"%d %s" % (gc.get_freeze_count(), b"collected" if circle() is None else b"kept")]
"""


@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_what_was_imported_is_exempt_and_what_requests_make_is_not(tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path, APPLICATION)
    with Command(tmp_path, "--wsgi", "-p", "0", *workers, "site_under_test:app") as command:
        command.wait_for("Serving at ")
        # The rest of the line.
        command.wait_for("/\n")
        match = re.search(r"Serving at https?://[^/]*:(\d+)/", command.output)
        assert match is not None, command.output
        count, _, made = get(int(match[1])).partition(b" ")
    assert int(count) > 100_000
    assert made == b"collected"
