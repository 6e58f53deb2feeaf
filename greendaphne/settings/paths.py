"""Makes the paths of options independent of the current directory, which the application may change."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from ..config import Config
from ..core.paths import resolve

#: Values that name a file which is read after the application is imported.  Endpoint strings resolve their own paths.
PATHS: Final = (
    "tls.certfile",
    "tls.keyfile",
    "tls.keyfile_password_file",
    "tls.client_ca",
    "acme.ca",
    "acme.eab_hmac_key_file",
)


def with_paths(config: Config) -> Config:
    """Return ``config`` with relative paths resolved from the directory in which the command was given."""
    given = {name: value for name in PATHS if (value := attrgetter(name)(config)) is not None}
    return config.changed({name: resolve(value) for name, value in given.items()})
