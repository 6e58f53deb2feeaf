"""The names of daphne: found where no daphne is installed, after ``install()`` or by the directory that an installation adds."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from greendaphne import compat

#: Whether an import costs more than a name: none of these may be loaded by looking at daphne's modules.
HEAVY = ("django", "channels", "twisted", "gevent", "h2", "OpenSSL", "greendaphne.server", "greendaphne.cli")


def python(code: str, *, path: Path | None = None) -> str:
    """Run ``code`` in a fresh interpreter and return what it prints."""
    prelude = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    done = subprocess.run([sys.executable, "-c", prelude + textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_install_and_the_directory_of_names_there_is_no_daphne() -> None:
    assert python("""
        import sys
        sys.path[:] = [each for each in sys.path if not each.endswith("greendaphne/compat/names")]
        import greendaphne, greendaphne.compat
        try:
            import daphne
        except ModuleNotFoundError as error:
            print(error.name)
    """) == ("daphne")


def test_greendaphne_itself_is_light() -> None:
    assert python(f"import sys, greendaphne; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_modules_are_found_without_loading_what_they_offer() -> None:
    assert (
        python(f"""
        import sys
        from greendaphne import compat
        compat.install()
        import daphne, daphne.server, daphne.access, daphne.utils, daphne.cli, daphne.endpoints, daphne.apps, daphne.testing
        import daphne.management.commands.runserver
        assert daphne.__version__ == "1.4.2", daphne.__version__
        assert "Server" in dir(daphne.server)
        assert daphne.server.__spec__.origin == "greendaphne"
        print([name for name in {HEAVY!r} if name in sys.modules])
    """)
        == "[]"
    )


def test_names_are_ours() -> None:
    python("""
        from greendaphne import compat
        compat.install()
        from daphne.server import Server, build_endpoint_description_strings
        from daphne.access import AccessLogGenerator
        from daphne.utils import parse_x_forwarded_for
        from daphne.cli import CommandLineInterface
        import daphne.server, greendaphne.logs.access, greendaphne.net.endpoints, greendaphne.serving.forwarded, greendaphne.server
        assert Server is greendaphne.server.Server is daphne.server.Server
        assert build_endpoint_description_strings is greendaphne.net.endpoints.build_endpoint_description_strings
        assert AccessLogGenerator is greendaphne.logs.access.AccessLogGenerator
        assert parse_x_forwarded_for is greendaphne.serving.forwarded.parse_x_forwarded_for
        assert callable(CommandLineInterface.entrypoint)
    """)


def test_every_name_of_the_table_exists() -> None:
    """Those for Django as well: they need its settings."""
    python("""
        import importlib
        from django.conf import settings
        settings.configure(INSTALLED_APPS=["django.contrib.contenttypes"])
        import django
        django.setup()
        from greendaphne import compat
        for module, names in compat.NAMES.items():
            for place, attribute in names.values():
                assert hasattr(importlib.import_module(place), attribute), (module, attribute)
    """)


@pytest.mark.parametrize("first", ["import daphne.server", "from daphne.testing import DaphneProcess", "import daphne.cli"])
def test_the_first_import_of_daphne_installs_the_names(first: str) -> None:
    """The directory of names is where pip puts it, at the end of the path, or in the middle of it."""
    names = Path(compat.__file__).parent / "names"
    for prelude in ("", f"sys.path[:] = [p for p in sys.path if p != {str(names)!r}]; sys.path.insert(1, {str(names)!r})"):
        python(f"""
        import sys
        {prelude}
        {first}
        import daphne, greendaphne.compat
        assert daphne.__spec__.origin == "greendaphne" and daphne.__version__ == "1.4.2"
        assert sum(isinstance(finder, greendaphne.compat.DaphneFinder) for finder in sys.meta_path) == 1
        """)


def test_other_names_and_modules_are_missing_as_usual() -> None:
    python("""
        from greendaphne import compat
        compat.install()
        import daphne.server
        try:
            daphne.server.HTTPFactory
        except AttributeError as error:
            assert "daphne.server" in str(error)
        else:
            raise AssertionError
        try:
            import daphne.http_protocol
        except ModuleNotFoundError as error:
            assert error.name == "daphne.http_protocol"
        else:
            raise AssertionError
        try:
            from daphne.server import HTTPFactory
        except ImportError:
            pass
        else:
            raise AssertionError
    """)


def test_a_real_daphne_wins(tmp_path: Path) -> None:
    package = tmp_path / "daphne"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = 'real'\n")
    (package / "server.py").write_text("class Server: real = True\n")
    python(
        """
        from greendaphne import compat
        compat.install()
        import daphne
        from daphne.server import Server
        assert daphne.__version__ == "real" and Server.real
        try:
            import daphne.utils
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("half of one, half of the other")
    """,
        path=tmp_path,
    )


def test_install_twice_is_install_once() -> None:
    assert python("""
        import sys
        from greendaphne import compat
        before = len(sys.meta_path)
        compat.install(); compat.install()
        print(len(sys.meta_path) - before)
        assert sys.meta_path[-1].__class__ is compat.DaphneFinder
    """) == ("1")


def test_the_command_line_interface_ends_with_the_commands_code() -> None:
    with pytest.raises(SystemExit) as ended:
        compat.CommandLineInterface().run(["--no-such-option"])
    assert ended.value.code == 2


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Channels 1 ends with Python 3.11")
def test_the_test_cases_of_channels_need_no_twisted() -> None:
    python("""
        import sys
        from django.conf import settings
        settings.configure(INSTALLED_APPS=["greendaphne", "channels"], CHANNEL_LAYERS={})
        import django
        django.setup()
        from channels.test import ChannelLiveServerTestCase, ChannelTestCase, HttpClient, WSClient, liveserver
        import greendaphne.server
        assert issubclass(liveserver.Server, greendaphne.server.Server)
        # The stand-in for the reactor is there for this module alone.
        assert hasattr(liveserver.reactor, "callLater")
        assert not [name for name in sys.modules if name.startswith("twisted")]
        try:
            import twisted
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError
        from daphne.server import Server
        assert Server is greendaphne.server.Server
    """)


def test_what_channels_needs_of_the_server() -> None:
    python("""
        import threading
        from greendaphne import compat
        compat.install()
        from daphne.server import Server, build_endpoint_description_strings
        from greendaphne.layers.memory import MemoryChannelLayer

        actions = []
        # The keyword arguments of runserver, in a thread that is not the main one.
        server = Server(
            channel_layer=MemoryChannelLayer(),
            endpoints=build_endpoint_description_strings(host="127.0.0.1", port=0),
            signal_handlers=False,
            action_logger=lambda protocol, action, details: actions.append((protocol, action)),
            http_timeout=1,
            ws_protocols=None,
            root_path="",
            websocket_handshake_timeout=5,
        )
        assert server.listeners == []
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.listeners:
            thread.join(0.01)
            assert thread.is_alive()
        port = server.listeners[0].result.getHost().port
        assert server.factory.reply_protocols == {}

        import urllib.error, urllib.request
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        except urllib.error.HTTPError as error:
            assert error.code == 503
        server.stop()
        thread.join(60)
        assert not thread.is_alive()
        assert actions == [("http", "complete")]
    """)
