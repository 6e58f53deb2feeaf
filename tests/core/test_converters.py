"""What values of options may be, and what they mean."""

from __future__ import annotations

import pytest

from greendaphne.core.converters import environ_entry, mount


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/api=module:application", ("/api", "module:application", "auto")),
        ("/api/=module:application", ("/api", "module:application", "auto")),
        ("/a/b=package.module:name.attribute,wsgi", ("/a/b", "package.module:name.attribute", "wsgi")),
        *((f"/a=m:a,{interface}", ("/a", "m:a", interface)) for interface in ("auto", "channels", "asgi3", "asgi2", "wsgi")),
    ],
)
def test_mounts(text: str, expected: tuple[str, str, str]) -> None:
    assert mount(text) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "must be written"),
        ("/api", "must be written"),
        ("/api=", "must be written"),
        ("/api=,wsgi", "must be written"),
        ("/api=m:a,", "must be written"),
        ("/api=m:a,rsgi", "must be written"),
        ("api=m:a", "begins with a slash"),
        ("/=m:a", "must have a path below /"),
    ],
)
def test_no_mounts(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        mount(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("A=b", ("A", "b")), ("A=", ("A", "")), ("A=b=c d", ("A", "b=c d")), ("A=\u00e4", ("A", "\xc3\xa4"))]
)
def test_environ_entries(text: str, expected: tuple[str, str]) -> None:
    assert environ_entry(text) == expected


@pytest.mark.parametrize("text", ["", "A", "=b", "a.b=c", "\u00e4=b", "A B=c", " A=b"])
def test_no_environ_entries(text: str) -> None:
    with pytest.raises(ValueError, match="must be written NAME=VALUE"):
        environ_entry(text)
