"""Makes the ``environ`` of a request (PEP 3333, "environ Variables").

All CGI values are ``str`` whose characters stand for bytes (Latin-1).  The dictionary is new for each request, so that an application may
change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from ...core.message import Request
from ...core.tlsinfo import TLSInfo
from .input import EMPTY, Errors, FileWrapper

Environ = dict[str, Any]

#: Request fields that applications do not get: those that concern the connection (RFC 9110 section 7.6.1), whose framing is the server's
#: work, and ``Proxy``, whose CGI name is an environment variable that HTTP clients obey (CVE-2016-5385).
_DROPPED: Final = frozenset(
    (
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
#: Names that are remembered; a client that makes names up does not fill the memory.
_REMEMBERED: Final = 1024
#: ``Sec-WebSocket-Key`` of a WebSocket on HTTP/2, where there is none: frameworks and libraries check that it is there.
_KEY: Final = "AAAAAAAAAAAAAAAAAAAAAA=="
_PORTS: Final = {"https": "443", "http": "80"}
#: A number is found in bytes in a third of the time that bytes would take.
_PERCENT: Final = ord("%")


class EnvironFactory:
    """Makes environs that have what does not change from request to request.

    :param multiprocess: whether other processes serve the same application.
    :param extra: strings that the deployer adds; they replace what the request says.
    :param software: the value of ``SERVER_SOFTWARE``.
    """

    def __init__(self, *, multiprocess: bool, extra: Mapping[str, str], software: str) -> None:
        self._base: Environ = {
            "wsgi.version": (1, 0),
            "wsgi.errors": Errors(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            "SERVER_SOFTWARE": software,
            "SCRIPT_NAME": "",
            # The rest is replaced in each environ.
            "wsgi.url_scheme": "http",
            "wsgi.input": EMPTY,
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "REQUEST_URI": "",
            "RAW_URI": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": "",
            "SERVER_PORT": "",
            "REMOTE_ADDR": "",
        }
        self._extra = dict(extra)
        self._names: dict[bytes, str] = dict.fromkeys(_DROPPED, "") | {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}

    def make(self, request: Request) -> Environ:
        """The environ of ``request``; its ``wsgi.input`` is empty."""
        method, target, path, query, version, headers, _, _, connection, root_path = request
        scheme, client, server, tls, _, _, _ = connection
        environ = self._base.copy()
        text = unquote_to_bytes(path).decode("latin-1") if _PERCENT in path else path.decode("latin-1")
        if root_path:
            environ["SCRIPT_NAME"], text = _split(script_name(root_path), text)
        environ["REQUEST_METHOD"] = method
        environ["PATH_INFO"] = text
        if query:
            environ["QUERY_STRING"] = query.decode("latin-1")
        environ["RAW_URI"] = environ["REQUEST_URI"] = target.decode("latin-1")
        if version != "1.1":
            environ["SERVER_PROTOCOL"] = "HTTP/2.0" if version == "2" else "HTTP/" + version
        if client:
            environ["REMOTE_ADDR"] = str(client[0])
            environ["REMOTE_PORT"] = str(client[1])
        # Otherwise REMOTE_ADDR is empty: frameworks read it without asking whether it is there.
        names = self._names
        for field, value in headers:
            name = names.get(field)
            if name is None:
                name = self._name(field)
            elif not name:
                continue
            text = value.decode("latin-1")
            if name in environ:
                if name == "CONTENT_LENGTH":
                    continue  # the protocol has made sure that all are the same
                text = environ[name] + ("; " if name == "HTTP_COOKIE" else ",") + text
            environ[name] = text
        if server and server[0]:
            environ["SERVER_NAME"] = str(server[0])
            environ["SERVER_PORT"] = str(server[1])
        else:
            environ["SERVER_NAME"], environ["SERVER_PORT"] = _named(environ.get("HTTP_HOST", ""), scheme)
        if scheme != "http":
            environ["wsgi.url_scheme"] = scheme
            if scheme == "https":
                environ["HTTPS"] = "on"
                if tls is not None:
                    _add_tls(environ, tls)
        if self._extra:
            environ.update(self._extra)
        return environ

    def _name(self, field: bytes) -> str:
        """The name of ``field`` in the environ, which is remembered."""
        name = "HTTP_" + field.decode("latin-1").upper().replace("-", "_")
        if len(self._names) < _REMEMBERED:
            self._names[field] = name
        return name


def add_websocket(environ: Environ, request: Request) -> None:
    """Let ``environ`` look like that of an opening handshake, which it is on HTTP/2 too (RFC 8441): libraries insist on it."""
    environ["HTTP_UPGRADE"] = "websocket"
    environ["HTTP_CONNECTION"] = "Upgrade"
    if request.http_version == "2":
        environ["REQUEST_METHOD"] = "GET"
        environ.setdefault("HTTP_SEC_WEBSOCKET_KEY", _KEY)


@lru_cache(maxsize=64)
def script_name(root_path: str) -> str:
    """``SCRIPT_NAME`` for a decoded mount point: empty, or a path with a leading and without a trailing slash."""
    name = root_path.encode("utf-8", "surrogateescape").decode("latin-1").rstrip("/")
    return name if not name or name[0] == "/" else "/" + name


def _split(script: str, path: str) -> tuple[str, str]:
    """``SCRIPT_NAME`` and ``PATH_INFO``; a proxy may have taken the mount point off the path already."""
    if script and path.startswith(script) and (len(path) == len(script) or path[len(script)] == "/"):
        return script, path[len(script) :]
    return script, path


def _named(host: str, scheme: str) -> tuple[str, str]:
    """``SERVER_NAME`` and ``SERVER_PORT`` of a server whose socket has neither, such as a UNIX socket."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal() or (host.startswith("[") and not name.endswith("]")):
        name, port = host, ""
    return name or "localhost", port or _PORTS.get(scheme, "80")


def _add_tls(environ: Environ, tls: TLSInfo) -> None:
    environ["SSL_PROTOCOL"] = tls.version
    environ["SSL_CIPHER"] = tls.cipher
    chain = tls.client_chain
    if chain:
        environ.update(_client_certificate(chain[0]))
    else:
        environ["SSL_CLIENT_VERIFY"] = "NONE"


@lru_cache(maxsize=256)
def _client_certificate(pem: str) -> dict[str, str]:
    """The variables of Apache httpd's mod_ssl for a client's certificate."""
    from cryptography.x509 import load_pem_x509_certificate

    certificate: Any = load_pem_x509_certificate(pem.encode("ascii"))
    try:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except AttributeError:  # cryptography before 42
        begin, end = certificate.not_valid_before, certificate.not_valid_after
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": _latin(certificate.subject.rfc4514_string()),
        "SSL_CLIENT_I_DN": _latin(certificate.issuer.rfc4514_string()),
        "SSL_CLIENT_M_SERIAL": f"{certificate.serial_number:X}",
        "SSL_CLIENT_V_START": f"{begin:%b %d %H:%M:%S %Y} GMT",
        "SSL_CLIENT_V_END": f"{end:%b %d %H:%M:%S %Y} GMT",
        "SSL_CLIENT_CERT": pem,
    }


def _latin(text: str) -> str:
    return text.encode("utf-8").decode("latin-1")
