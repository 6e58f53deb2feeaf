"""TOML of whatever a user's file contains."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class TOMLError(ValueError):
    """A text is not TOML; this one says in one line why."""


def loads(text: str) -> dict[str, Any]:
    """Return the content of ``text``.

    :raises TOMLError: when it is not TOML, or nested deeper or with larger numbers than Python reads.
    """
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TOMLError(str(error)) from None
    except RecursionError:
        raise TOMLError("its values are nested too deeply") from None
    except ValueError:
        # Of int(), which takes no thousands of digits.
        raise TOMLError("a number is too large") from None
    return content
