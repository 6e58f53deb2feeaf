"""The error for a configuration that cannot be used.  It has a module of its own because the command needs it before anything else."""

from __future__ import annotations


class MissingExtra(ImportError):
    """Packages that an extra of greendaphne brings are not installed; the text is one line that says which to install."""


class ConfigurationError(ValueError):
    """A server cannot be put together as the configuration says.  The text is one line.

    :param text: the reason; with a ``target`` it continues the name of that value.
    :param target: the value that is wrong, such as ``http2.max_frame_size``, or ``""`` where it is not one value alone.
    """

    def __init__(self, text: str, target: str = "") -> None:
        super().__init__(f"{target} {text}" if target else text)
        self.text = text
        self.target = target
