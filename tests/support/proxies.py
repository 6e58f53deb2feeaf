"""nginx and HAProxy, the real programs, with the files from ``examples``: what is installed in /etc there is put in its place here.

A file is taken as it is, but for the addresses, paths and certificates in it; each of these has to be there, so that a test notices when
the file has become another.  The sockets to listen on are made here and inherited, which leaves no port to guess.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.server import Client
from tests.support.tls import client_context

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: Where daemons are, which is not on everybody's PATH.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
#: The clients' address.
CLIENT = "127.0.0.77"
#: Seconds for anything that a proxy has to do.
PATIENCE = 20.0


def program(name: str, package: str) -> str:
    """The path of a program, of which ``package`` is Debian's name."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN]))
    assert path is not None, f"{name} is missing: apt-get install {package}"
    return path


@dataclass(frozen=True)
class Front:
    """A running proxy, seen from the clients' side.

    :param plain: port without TLS.
    :param secure: port with TLS, for ``localhost``.
    :param authority: issued the certificate of that.
    :param admin: HAProxy's administration socket.
    """

    plain: int
    secure: int
    authority: Authority | None = None
    admin: Path | None = None
    host: str = "127.0.0.1"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.plain

    def connect(self, *, tls: bool = False, alpn: tuple[str, ...] = ()) -> Client:
        """A new connection of a client, which has another address than the proxy where that is IPv4."""
        source = ("::1" if ":" in self.host else CLIENT, 0)
        sock = socket.create_connection((self.host, self.secure if tls else self.plain), timeout=PATIENCE, source_address=source)
        if not tls:
            return Client(sock)
        assert self.authority is not None
        context: ssl.SSLContext = client_context(self.authority, alpn=alpn)
        return Client(context.wrap_socket(sock, server_hostname="localhost"))

    def command(self, text: str) -> str:
        """What HAProxy answers to ``text``."""
        assert self.admin is not None
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.admin))
            sock.sendall(text.encode() + b"\n")
            with sock.makefile("rb") as file:
                return file.read().decode()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that only shows when it is looked at."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def render(example: str, replacements: Mapping[str, str]) -> str:
    """The text of a file in ``examples`` with other addresses and paths."""
    text = (EXAMPLES / example).read_text()
    for old, new in replacements.items():
        assert old in text, f"{old!r} is not in {example}"
        text = text.replace(old, new)
    return text


@contextmanager
def running(command: list[str], sockets: list[socket.socket], log: Path, environment: Mapping[str, str], sign: Path) -> Iterator[None]:
    """Run a proxy that inherits ``sockets``, and close them here: connections wait in them until it has started.

    :param sign: the file that exists once it has.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            pass_fds=[sock.fileno() for sock in sockets],
        )
    for sock in sockets:
        sock.close()
    try:
        eventually(lambda: sign.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listeners(host: str) -> list[socket.socket]:
    """Two listening sockets, for plain connections and for TLS."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return [socket.create_server((host, 0), family=family) for _ in range(2)]


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory with a path that is short enough for UNIX sockets."""
    with tempfile.TemporaryDirectory(prefix="gd-proxy-") as directory:
        yield Path(directory)


@contextmanager
def nginx(example: str, upstream: str, replacements: Mapping[str, str] = {}, *, host: str = "127.0.0.1") -> Iterator[Front]:
    """nginx with a file of ``examples/nginx``.

    :param upstream: where the server is, in nginx' words.
    :param replacements: further changes to the file.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(workplace())
        authority = Authority.make(directory)
        certificate = authority.server("localhost", "127.0.0.1").write(directory / "site.pem")
        sockets = listeners(host)
        ports = [sock.getsockname()[1] for sock in sockets]
        changes = {"    server 127.0.0.1:8000;": f"    server {upstream};"}
        name = f"[{host}]" if ":" in host else host
        changes["listen 80;"] = f"listen {name}:{ports[0]};"
        if "listen 443" in (EXAMPLES / "nginx" / example).read_text():
            changes["listen 443 ssl http2;"] = f"listen {name}:{ports[1]} ssl http2;"
            changes["/etc/ssl/mysite/fullchain.pem"] = changes["/etc/ssl/mysite/privkey.pem"] = str(certificate)
        else:
            sockets.pop().close()
        (directory / "site.conf").write_text(render(f"nginx/{example}", {**changes, **replacements}))
        # root's workers would be somebody else, who may not enter this directory.
        user = "user root;\n" if os.geteuid() == 0 else ""
        directories = "\n".join(f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (directory / "nginx.conf").write_text(
            f"""{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
access_log off;
{directories}
include {directory}/site.conf;
}}
"""
        )
        command = [program("nginx", "nginx-light"), "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]
        inherited = "".join(f"{sock.fileno()};" for sock in sockets)
        stack.enter_context(running(command, sockets, directory / "log", {"NGINX": inherited}, directory / "nginx.pid"))
        yield Front(ports[0], ports[1], authority, host=host)


@contextmanager
def haproxy(example: str, replacements: Mapping[str, str]) -> Iterator[Front]:
    """HAProxy with a file of ``examples/haproxy``.

    :param replacements: at least where the server is.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(workplace())
        authority = Authority.make(directory)
        sockets = listeners("127.0.0.1")
        ports = [sock.getsockname()[1] for sock in sockets]
        admin = directory / "admin.sock"
        changes = {
            "bind :80\n": f"bind fd@{sockets[0].fileno()}\n",
            "bind :443": f"bind fd@{sockets[1].fileno()}",
            "/run/haproxy/admin.sock": str(admin),
        }
        if "ssl crt" in (EXAMPLES / "haproxy" / example).read_text():
            certificate = authority.server("localhost", "127.0.0.1").write(directory / "site.pem")
            changes["/etc/haproxy/certs/mysite.pem"] = str(certificate)
        configuration = directory / "haproxy.cfg"
        configuration.write_text(render(f"haproxy/{example}", {**changes, **replacements}))
        # A warning is an error (-dW); without a fork (-db).
        command = [program("haproxy", "haproxy"), "-dW", "-db", "-f", str(configuration)]
        stack.enter_context(running(command, sockets, directory / "log", {}, admin))
        yield Front(ports[0], ports[1], authority, admin)
