"""Formats of access lines: daphne's, JSON, and text with gunicorn's atoms such as ``%(h)s``.

:func:`compile_format` compiles a format once and refuses unknown parts; a line then costs a few calls and one ``%``.
In no format can a client start a new line, end a quoted field or control a terminal: characters other than printable ASCII, quotes and
backslashes are written ``\\xNN``, in JSON by its own rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Final, NamedTuple

from ...core.message import Stream
from .entries import (
    CLOCK,
    FIELD_HEADERS,
    FIELDS,
    NOTHING,
    REFUSED,
    REQUEST,
    WEBSOCKET_METHODS,
    Entry,
    Value,
    escaped,
    host,
    method_word,
    protocol,
    request_line,
    user,
)

#: Formats an event as a line without its end: stream, kind of event, seconds, cause and close code.  ``None`` means no line.
Render = Callable[[Stream, str, float, str, "int | None"], "str | None"]

#: The formats with an implementation of their own.
DAPHNE: Final = "daphne"
JSON: Final = "json"
#: Names of formats with atoms.
COMMON: Final = "common"
NAMED: Final = {
    COMMON: '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s',
    "combined": '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"',
}


class FormatError(ValueError):
    """An invalid format; the text is one line with the reason."""


class Format(NamedTuple):
    """A compiled format."""

    render: Render
    #: Names of the request fields that the format contains.
    headers: frozenset[bytes]


def compile_format(text: str) -> Format:
    """Compile a format.

    :param text: ``daphne``, ``json``, ``common``, ``combined``, or text with atoms.
    :raises FormatError: for an unknown atom, a stray percent sign, or a text without any atom.
    """
    if text == DAPHNE:
        return Format(daphne_line, frozenset())
    if text == JSON:
        return Format(json_line, frozenset(FIELD_HEADERS.values()))
    return _compile(NAMED.get(text, text))


# ---- daphne's


def daphne_line(stream: Stream, event: str, seconds: float, cause: str, code: int | None) -> str | None:
    """daphne's line, byte for byte; ``None`` if daphne writes none: for incomplete answers and for refused heads."""
    request = stream.request
    client = request.connection.client
    # The client may contain the zone of an IPv6 address from a proxy's field, which is arbitrary text.
    address = "None" if client is None else escaped(f"{client[0]}:{client[1]}")
    if event is REQUEST:
        if not stream.complete:
            return None
        asked = escaped(f"{request.method} {request.target.decode('latin-1')}")
        return f'{address} - - [{CLOCK.now().daphne}] "{asked}" {stream.status or NOTHING} {stream.sent or NOTHING}'
    if event is REFUSED:
        return None
    asked = escaped(f"{WEBSOCKET_METHODS[event]} {request.path.decode('latin-1')}")
    return f'{address} - - [{CLOCK.now().daphne}] "{asked}" - -'


# ---- JSON


def quoted(value: Value) -> str:
    """``value`` in JSON, in printable ASCII."""
    if value is None:
        return "null"
    if isinstance(value, str):
        text = encode_basestring_ascii(value)
        # json does not escape this control character.
        return text.replace("\x7f", "\\u007f") if "\x7f" in text else text
    return f"{value:.6f}" if isinstance(value, float) else str(value)


_JSON_TEMPLATE = "{" + ", ".join(f'"{name}": %s' for name in FIELDS) + "}"
_JSON_VALUES = tuple(FIELDS.values())


def json_line(stream: Stream, event: str, seconds: float, cause: str, code: int | None) -> str:
    """One JSON object with every key of :data:`~greendaphne.logs.access.entries.FIELDS`."""
    entry = Entry(stream, event, seconds, cause, code)
    return _JSON_TEMPLATE % tuple([quoted(value(entry)) for value in _JSON_VALUES])


# ---- formats with atoms

Atom = Callable[[Entry], str]

_ATOM = re.compile(r"%(?:%|\((\{[^{}]*\}[a-z]|[^(){}]*)\)s)?")
_HEADER_ATOM = re.compile(r"\{([^{}]+)\}([ioe])")


def _shown(value: Callable[[Entry], Value]) -> Atom:
    """An atom that writes ``value``, or a hyphen for a missing value."""

    def atom(entry: Entry) -> str:
        result = value(entry)
        if result is None or result == "":
            return NOTHING
        return escaped(result) if isinstance(result, str) else quoted(result)

    return atom


def _header_atom(name: bytes) -> Atom:
    def atom(entry: Entry) -> str:
        for key, value in entry.request.headers:
            if key == name:
                return escaped(value.decode("latin-1")) or NOTHING
        return NOTHING

    return atom


def _response_header_atom(name: bytes) -> Atom:
    def atom(entry: Entry) -> str:
        for key, value in entry.stream.response_headers:
            if key.lower() == name:
                return escaped(value.decode("latin-1")) or NOTHING
        return NOTHING

    return atom


def _target_part(part: Callable[[Entry], bytes], missing: str) -> Atom:
    def atom(entry: Entry) -> str:
        return escaped(part(entry).decode("latin-1")) if entry.request.target else missing

    return atom


def _bytes_sent(entry: Entry) -> int | None:
    return entry.stream.sent if entry.event is REQUEST or entry.event is REFUSED else None


#: gunicorn's atoms.
_ATOMS: Final[dict[str, Atom]] = {
    "h": _shown(host),
    "l": lambda entry: NOTHING,
    "u": _shown(user),
    "t": lambda entry: CLOCK.at(entry.now).common,
    "r": _shown(request_line),
    "s": lambda entry: str(entry.status) if entry.status else NOTHING,
    "m": _shown(method_word),
    "U": _target_part(lambda entry: entry.request.path, NOTHING),
    "q": _target_part(lambda entry: entry.request.query_string, ""),
    "H": protocol,
    "b": lambda entry: str(_bytes_sent(entry) or NOTHING),
    "B": lambda entry: str(_bytes_sent(entry) or 0),
    "f": _header_atom(b"referer"),
    "a": _header_atom(b"user-agent"),
    "T": lambda entry: str(int(entry.seconds)),
    "D": lambda entry: str(int(entry.seconds * 1_000_000)),
    "M": lambda entry: str(int(entry.seconds * 1000)),
    "L": lambda entry: f"{entry.seconds:.6f}",
    "p": lambda entry: f"<{FIELDS['pid'](entry)}>",
}
_ATOM_HEADERS: Final = {"u": b"authorization", "f": b"referer", "a": b"user-agent"}

#: Names of ``%({NAME}e)s``, from a WSGI environment, that are not request fields.
_ENVIRON: Final[dict[str, Callable[[Entry], Value]]] = {
    "remote_addr": FIELDS["client"],
    "remote_port": FIELDS["client_port"],
    "request_method": FIELDS["method"],
    "path_info": FIELDS["path"],
    "query_string": FIELDS["query"],
    "server_protocol": FIELDS["protocol"],
    "request_uri": lambda entry: entry.request.target.decode("latin-1"),
    "raw_uri": lambda entry: entry.request.target.decode("latin-1"),
    "server_name": lambda entry: _server(entry, 0),
    "server_port": lambda entry: _server(entry, 1),
    "wsgi.url_scheme": FIELDS["scheme"],
    "https": lambda entry: "on" if entry.request.connection.scheme in ("https", "wss") else None,
    "ssl_protocol": FIELDS["tls_version"],
    "ssl_cipher": FIELDS["tls_cipher"],
}


def _server(entry: Entry, part: int) -> str | None:
    server = entry.request.connection.server
    return None if server is None else str(server[part])


def _compile(text: str) -> Format:
    template: list[str] = []
    atoms: list[Atom] = []
    headers: set[bytes] = set()
    end = 0
    for match in _ATOM.finditer(text):
        template.append(_literal(text[end : match.start()]))
        end = match.end()
        if match[0] == "%%":
            template.append("%%")
            continue
        if match[1] is None:
            raise FormatError(f"a percent sign is written %% and an atom %(NAME)s, not {text[match.start() : match.start() + 10]!r}")
        template.append("%s")
        atoms.append(_find(match[1], headers))
    if not atoms:
        names = ", ".join([DAPHNE, JSON, *NAMED])
        raise FormatError(f"must be {names} or text with atoms such as %(h)s, not {text!r}")
    template.append(_literal(text[end:]))
    return Format(_renderer("".join(template), tuple(atoms)), frozenset(headers))


def _renderer(template: str, atoms: tuple[Atom, ...]) -> Render:
    def render(stream: Stream, event: str, seconds: float, cause: str, code: int | None) -> str:
        entry = Entry(stream, event, seconds, cause, code)
        return template % tuple([atom(entry) for atom in atoms])

    return render


def _literal(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise FormatError("must be one line")
    return text


def _find(name: str, headers: set[bytes]) -> Atom:
    """The atom of that name; adds the request fields that it reads to ``headers``."""
    if name in _ATOMS:
        if name in _ATOM_HEADERS:
            headers.add(_ATOM_HEADERS[name])
        return _ATOMS[name]
    if name in FIELDS:
        if name in FIELD_HEADERS:
            headers.add(FIELD_HEADERS[name])
        return _shown(FIELDS[name])
    match = _HEADER_ATOM.fullmatch(name)
    if match is None:
        known = " ".join([*_ATOMS, *FIELDS, "{NAME}i", "{NAME}o", "{NAME}e"])
        raise FormatError(f"unknown atom %({name})s; known are {known}")
    key = match[1].lower()
    if match[2] == "e" and key in _ENVIRON:
        return _shown(_ENVIRON[key])
    if match[2] == "e":
        if key not in ("content_type", "content_length") and not key.startswith("http_"):
            return lambda entry: NOTHING
        key = key.removeprefix("http_").replace("_", "-")
    field = key.encode("ascii", "replace")
    if match[2] == "o":
        return _response_header_atom(field)
    headers.add(field)
    return _header_atom(field)
