"""The exit codes of the command, and the name of its log."""

from __future__ import annotations

from typing import Final

#: daphne's name, which logging configurations refer to.
LOGGER: Final = "daphne.cli"

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
#: The shell's code for a process that SIGINT ended.
EXIT_INTERRUPTED: Final = 130
