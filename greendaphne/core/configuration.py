"""The error for an invalid configuration.  A separate module, because the command needs it before all others."""

from __future__ import annotations


class MissingExtra(ImportError):
    """Packages of an extra of greendaphne are not installed; the text is one line that names the extra."""


class ConfigurationError(ValueError):
    """The configuration does not describe a working server.  The text is one line.

    :param text: the reason; with a ``target`` it continues the name of that value.
    :param target: the name of the wrong value, such as ``http2.max_frame_size``; ``""`` where the error concerns several values.
    """

    def __init__(self, text: str, target: str = "") -> None:
        super().__init__(f"{target} {text}" if target else text)
        self.text = text
        self.target = target
