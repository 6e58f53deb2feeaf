"""Module names of version 1.0 that user code imports, for modules that moved into packages in version 1.1.

:func:`install` puts a finder in front of ``sys.meta_path``.  An import of a name in :data:`MOVED`, or of a module below it, returns the
module at its present place, so classes keep their identity.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import CodeType, ModuleType

_PACKAGE = "greendaphne."

#: The present place of each documented module of version 1.0.
MOVED = {
    "access": "logs.access",
    "addresses": "core.addresses",
    "endpoints": "net.endpoints",
    "message": "core.message",
    "observer": "core.observer",
    "sample": "settings.sample",
    "tls": "net.tls",
}


class MovedFinder(MetaPathFinder, InspectLoader):
    """Finds the modules of :data:`MOVED` under their names of version 1.0."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a module under its name of version 1.0; ``None`` for all other names."""
        if not fullname.startswith(_PACKAGE):
            return None
        first = fullname[len(_PACKAGE) :].partition(".")[0]
        return spec_from_loader(fullname, self, is_package=False) if first in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Replace ``module`` by the moved one; the import statement uses the entry in ``sys.modules`` afterwards."""
        sys.modules[module.__name__] = import_module(_present_name(module.__name__))

    def get_source(self, fullname: str) -> None:
        """Return no source, because it belongs to the present name."""

    def is_package(self, fullname: str) -> bool:
        """Whether ``fullname`` is a package; only ``python -m`` asks, and it runs plain modules here."""
        return False

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the module, for ``python -m`` with a name of version 1.0."""
        spec = find_spec(_present_name(fullname))
        loader = spec.loader if spec is not None else None
        return loader.get_code(fullname) if isinstance(loader, InspectLoader) else None


def _present_name(fullname: str) -> str:
    first, dot, rest = fullname[len(_PACKAGE) :].partition(".")
    return f"{_PACKAGE}{MOVED[first]}{dot}{rest}"


def install() -> None:
    """Make the names of version 1.0 importable; further calls do nothing."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedFinder())
