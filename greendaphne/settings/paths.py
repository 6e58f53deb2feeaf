"""The paths of options, once the application may have changed the directory."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from ..config import Config
from ..core.paths import resolve

#: Values that name a file and are read after the application is imported.  Endpoint strings resolve their own.
PATHS: Final = (
    "tls.certfile",
    "tls.keyfile",
    "tls.keyfile_password_file",
    "tls.client_ca",
    "acme.ca",
    "acme.eab_hmac_key_file",
)


def with_paths(config: Config) -> Config:
    """Return ``config`` with relative paths that begin where the command was given."""
    given = {name: value for name in PATHS if (value := attrgetter(name)(config)) is not None}
    return config.changed({name: resolve(value) for name, value in given.items()})
