"""The demo's files, read once at import: static files as bytes, templates as text.

Only files of the package are served, and only under their exact names, so no path of a request reaches the file system.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

#: The content types by the suffix of the file name; files with other suffixes are not served.
CONTENT_TYPES = {
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}


class Asset(NamedTuple):
    """A static file; ``etag`` includes its quotation marks (RFC 9110 section 8.8.3)."""

    content: bytes
    content_type: bytes
    etag: bytes


def _load_static() -> dict[str, Asset]:
    assets = {}
    for entry in (files(__package__) / "static").iterdir():
        content_type = CONTENT_TYPES.get(entry.name.rpartition(".")[2])
        if content_type is not None:
            content = entry.read_bytes()
            etag = b'"%s"' % hashlib.sha256(content).hexdigest()[:32].encode()
            assets[f"/static/{entry.name}"] = Asset(content, content_type, etag)
    return assets


def template(name: str) -> str:
    """The text of ``templates/<name>``."""
    return (files(__package__) / "templates" / name).read_text("utf-8")


#: Static files by the path of their URL.
STATIC = _load_static()
