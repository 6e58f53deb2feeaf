"""The tutorials for WSGI and ASGI, followed from an empty directory."""

from __future__ import annotations

import pytest

from tests.support.pages import why_no_machine
from tests.support.tutorials import follow


@pytest.mark.skipif(bool(why_no_machine()), reason=why_no_machine() or "-")
@pytest.mark.parametrize("page", ["tutorials/wsgi.rst", "tutorials/asgi.rst"])
def test_a_tutorial(page: str) -> None:
    follow(page)
