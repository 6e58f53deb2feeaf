"""The names that legacy code imports from ``daphne``, where no daphne is installed.

``channels`` 1.x imports its protocol server by name (``from daphne.server import Server``), and so do settings, scripts and subclasses of
older projects; Django projects of today have ``"daphne"`` in ``INSTALLED_APPS``, and ``channels.testing`` imports ``daphne.testing``.
:func:`install` lets these imports find greendaphne.  It appends a finder to ``sys.meta_path``, so that an installed daphne takes
precedence; the modules that it creates import their objects on access only.  The command line and the Django application
(``"greendaphne"`` in ``INSTALLED_APPS``) call it, and so does the first ``import daphne`` of any other process: an installation with pip
puts ``names``, which has a module of this name, at the end of ``sys.path``.

=========================================  ===================================================================
Module                                     Names
=========================================  ===================================================================
``daphne``                                 ``__version__``, the version of daphne whose interface this implements
``daphne.server``                          ``Server``, ``build_endpoint_description_strings``
``daphne.endpoints``                       ``build_endpoint_description_strings``
``daphne.access``                          ``AccessLogGenerator``
``daphne.utils``                           ``parse_x_forwarded_for``
``daphne.cli``                             ``CommandLineInterface``
``daphne.apps``                            ``DaphneConfig``
``daphne.checks``                          ``check_daphne_installed``
``daphne.testing``                         ``DaphneProcess``
``daphne.management.commands.runserver``   ``Command``
=========================================  ===================================================================

daphne's other modules consist of Twisted protocols and have no counterpart: importing them raises :class:`ModuleNotFoundError`.
``liveserver`` has the further objects that the live-server test case of ``channels.test`` needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

#: The version of daphne whose interface and behaviour this implements; projects compare it.
DAPHNE_VERSION = "1.4.2"

#: Read by Django before 3.2; later versions find the application themselves.
DEFAULT_APP_CONFIG = "daphne.apps.DaphneConfig"

#: For each module, the origin of each of its names: another module and the name there.
NAMES: dict[str, dict[str, tuple[str, str]]] = {
    "daphne": {"__version__": (__name__, "DAPHNE_VERSION"), "default_app_config": (__name__, "DEFAULT_APP_CONFIG")},
    "daphne.server": {
        "Server": ("greendaphne.server", "Server"),
        "build_endpoint_description_strings": ("greendaphne.net.endpoints", "build_endpoint_description_strings"),
    },
    "daphne.access": {"AccessLogGenerator": ("greendaphne.logs.access", "AccessLogGenerator")},
    "daphne.utils": {"parse_x_forwarded_for": ("greendaphne.serving.forwarded", "parse_x_forwarded_for")},
    "daphne.cli": {"CommandLineInterface": (__name__, "CommandLineInterface")},
    "daphne.endpoints": {"build_endpoint_description_strings": ("greendaphne.net.endpoints", "build_endpoint_description_strings")},
    "daphne.apps": {"DaphneConfig": ("greendaphne.compat.apps", "DaphneConfig")},
    "daphne.checks": {"check_daphne_installed": ("greendaphne.compat.apps", "check_order")},
    "daphne.testing": {"DaphneProcess": ("greendaphne.compat.testing", "DaphneProcess")},
    "daphne.management": {},
    "daphne.management.commands": {},
    "daphne.management.commands.runserver": {"Command": ("greendaphne.management.commands.runserver", "DaphneCommand")},
}
#: The modules of :data:`NAMES` that contain other modules.
PACKAGES = frozenset(name.rpartition(".")[0] for name in NAMES if "." in name)

#: The only module with other objects: the live-server test case, see ``liveserver``.
LIVE_SERVER_MODULE = "channels.test.liveserver"
#: A name in it that exists once it is completely imported.
LIVE_SERVER_CLASS = "ChannelLiveServerTestCase"
#: The development server's command, see ``runserver``.
RUNSERVER_MODULE = "channels.management.commands.runserver"
#: The modules that it imports from Twisted.
TWISTED_MODULES = frozenset(("twisted", "twisted.internet"))


def is_live_server_being_imported() -> bool:
    """Whether the live-server test case is being imported at this moment."""
    module = sys.modules.get(LIVE_SERVER_MODULE)
    return module is not None and LIVE_SERVER_CLASS not in module.__dict__


def is_runserver_being_imported() -> bool:
    """Whether the running import is that of Channels' ``runserver``."""
    module = sys.modules.get(RUNSERVER_MODULE)
    return module is not None and "Command" not in module.__dict__


class DaphneFinder:
    """Finds and fills the modules of :data:`NAMES` and, for the live-server test case alone, :data:`TWISTED_MODULES`.

    It has the methods that the import system calls.  It does without the base classes in ``importlib.abc``, which imports ``tempfile`` and
    more.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of one of the modules; ``None`` for all others, and for daphne's where a real ``daphne`` is loaded."""
        if fullname not in NAMES and not (fullname in TWISTED_MODULES and is_live_server_being_imported()):
            return None
        package, _, module = fullname.partition(".")
        if module and getattr(sys.modules.get(package), "__loader__", None) is not self:
            return None
        return spec_from_loader(fullname, self, origin="greendaphne", is_package=not module or fullname in PACKAGES)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Have the import system make the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give ``module`` its names, which are resolved on access."""
        if module.__name__ in TWISTED_MODULES:
            import_module("greendaphne.compat.liveserver").fill_twisted(module)
            return
        names = NAMES[module.__name__]
        module.__doc__ = f"greendaphne under the name of {module.__name__}."
        module.__dict__["__all__"] = sorted(names)
        module.__dict__["__dir__"] = lambda: sorted({*module.__dict__, *names})
        module.__dict__["__getattr__"] = resolver(module)


def resolver(module: ModuleType) -> Callable[[str], object]:
    """The ``__getattr__`` (PEP 562) of a module of :data:`NAMES`."""
    names = NAMES[module.__name__]

    def resolve(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        place, attribute = names[name]
        if attribute == "Server" and is_live_server_being_imported():
            place, attribute = "greendaphne.compat.liveserver", "LiveServer"
        elif attribute == "Server" and is_runserver_being_imported():
            place, attribute = "greendaphne.compat.runserver", "DevelopmentServer"
        return getattr(import_module(place), attribute)

    return resolve


class CommandLineInterface:
    """``daphne.cli.CommandLineInterface``: the ``greendaphne`` command as an object."""

    description = "Django HTTP/WebSocket server"

    @classmethod
    def entrypoint(cls) -> None:
        """Run the command with the arguments of the process."""
        cls().run(sys.argv[1:])

    def run(self, args: Sequence[str]) -> None:
        """Serve with these arguments until a signal stops the server.

        :raises SystemExit: where the command ends with an error; its code is 2 for wrong arguments and 1 otherwise.
        """
        code = import_module("greendaphne.cli").main(list(args))
        if code:
            raise SystemExit(code)


def install() -> None:
    """Let ``import daphne`` find greendaphne where no daphne is installed; idempotent."""
    if not any(isinstance(finder, DaphneFinder) for finder in sys.meta_path):
        sys.meta_path.append(DaphneFinder())
