"""Command lines as tests read them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from greendaphne.config import Config
from greendaphne.settings.arguments import Command, read
from greendaphne.settings.option import Option
from greendaphne.settings.sources import key

#: A channel layer's place; nothing is there.
LAYER = "app:layer"


def command(*argv: str, environ: Mapping[str, str] | None = None) -> Command:
    """What a command line asks to serve."""
    read_command = read([*argv], environ or {})
    assert isinstance(read_command, Command)
    return read_command


def configured(*argv: str) -> Config:
    """The configuration that options stand for."""
    return command(*argv, LAYER).config


def value(of: Command, item: Option) -> Any:
    """What ``of`` has for ``item``: a value of its configuration, or for options of the command itself what is set."""
    if item.to:
        return attrgetter(item.to)(of.config)
    setting = of.settings.get(key(item))
    return None if setting is None else setting.value
