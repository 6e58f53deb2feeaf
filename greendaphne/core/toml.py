"""Reads TOML from users' files; every error is one line."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class TOMLError(ValueError):
    """A text that is not valid TOML; the message is one line."""


def loads(text: str) -> dict[str, Any]:
    """Return the content of ``text``.

    :raises TOMLError: for invalid TOML, and for nesting or numbers beyond Python's limits.
    """
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TOMLError(str(error)) from None
    except RecursionError:
        raise TOMLError("its values are nested too deeply") from None
    except ValueError:
        # int() raises it for thousands of digits.
        raise TOMLError("a number is too large") from None
    return content
