"""Reads a request head: strict where a lenient reader would let two parties disagree about where a message ends.

The request line is matched here, the field lines are parsed by llhttp (through httptools) behind a fixed request line, so that method,
target and version are judged by one regular expression and the fields by a well-tested lexer.  What llhttp leaves to the server is
checked in :meth:`HeadParser.parse`: counts and sizes, ``Host``, the framing fields, ``Expect`` and the forms of the target.  Bodies are
:mod:`greendaphne.http1.body`'s business.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import count

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from ..config import Limits
from ..core.grammar import CONTENT_LENGTH, TOKEN, TOKEN_PATTERN, elements, expects_continue, valid_authority
from ..core.message import ConnectionInfo, HTTPError, Request

# RFC 9112 section 3: exactly one space on either side of the target, which has no fragment (section 3.2).
_REQUEST_LINE = re.compile(rb"(" + TOKEN_PATTERN + rb") ([!\"$-~\x80-\xff]+) HTTP/([0-9])\.([0-9])\r\n")
_FIXED_LINE = b"GET / HTTP/1.1\r\n"
# RFC 9112 section 3.2.2; user information is refused (RFC 9110 section 4.2.4).
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^?]*)?(?:\?|\Z)", re.IGNORECASE)
# Blanks at the end of a field line; the line has something else as well, or it would become the end of the section.
_TRAILING_BLANKS = re.compile(rb"(?<=[!-~\x80-\xff])[ \t]+(?=\r\n)")

#: Field sections of requests that announce nothing (no body, no upgrade, no expectation), with what parsing them gave: clients repeat
#: theirs, and to look one up costs a fifth.  Number and length are bounded; all are forgotten together when there are too many.
_REMEMBERED_SECTIONS, _REMEMBERED_SIZE = 256, 1024
_sections: dict[bytes, tuple[list[tuple[bytes, bytes]], bool]] = {}
#: Request lines in origin-form with method, target, path, query, version, and whether that is 1.1: most requests are for few resources, and
#: to look one up costs half.  Number and length are bounded.  A full table takes no more lines, so that lines that come once cost little.
#: It is emptied after :data:`_UNKNOWN_LINES` unknown lines, since clients may ask for other resources then.
_REMEMBERED_LINES, _REMEMBERED_LINE, _UNKNOWN_LINES = 512, 256, 8192
_lines: dict[bytes, tuple[str, bytes, bytes, bytes, str, bool]] = {}
_unknown_lines = count(1)
#: The latest head whose line and fields were both known, with the limits that it was checked by, method, target, path, query, version,
#: fields, and whether the connection goes on: programs such as those that look whether a server is alive send one head again and again.
_latest: tuple[bytes, Limits | None, str, bytes, bytes, bytes, str, list[tuple[bytes, bytes]], bool]
_latest = (b"", None, "", b"", b"", b"", "", [], False)
#: The methods of which whole lines are remembered; CONNECT is refused.
_METHODS = {method.encode("ascii"): method for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}
_new_request = partial(tuple.__new__, Request)

_SPECIAL = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"))


def bad_request(detail: str) -> HTTPError:
    """400, and the connection ends: where the framing is in doubt nothing that follows may be read as a request."""
    return HTTPError(400, detail, close=True)


class _Fields:
    """Receives the field lines from the parser."""

    __slots__ = ("all", "special")

    def __init__(self) -> None:
        self.all: list[tuple[bytes, bytes]] = []
        self.special: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        field = (name, value.strip(b" \t"))
        self.all.append(field)
        if name in _SPECIAL:
            self.special.append(field)


class HeadParser:
    """Parses one head after the other on one connection.

    After :meth:`parse`, :attr:`keep_alive` and :attr:`expect_continue` belong to the request returned.
    """

    __slots__ = ("_connection", "_fields", "_limits", "_longest_line", "_parser", "_remembered", "expect_continue", "keep_alive")

    def __init__(self, connection: ConnectionInfo, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        # The longest field section that is remembered.
        self._remembered = min(_REMEMBERED_SIZE, limits.request_field_size)
        # The longest request line that is remembered, with its CRLF.
        self._longest_line = min(_REMEMBERED_LINE, limits.request_line + 2)
        self._fields = _Fields()
        self._parser: HttpRequestParser | None = None
        self.keep_alive = False
        self.expect_continue = False

    def parse(self, head: bytes) -> Request:
        """Return the request of ``head``, which ends with its empty line.

        :raises HTTPError: 400, 414, 417, 431, 501 or 505.
        """
        global _latest  # noqa: PLW0603 - what all connections of the process share
        limits = self._limits
        self.expect_continue = False
        latest = _latest
        if head == latest[0] and limits is latest[1]:
            _, _, method, target, path, query, version, fields, self.keep_alive = latest
            return _new_request((method, target, path, query, version, fields[:], 0, b"", self._connection, ""))
        fields_start = head.find(b"\r\n") + 2
        line = head[:fields_start] if fields_start <= self._longest_line else b""
        known_line = _lines.get(line)
        if known_line is not None:
            http_1_1 = known_line[5]
            token = target = b""
        else:
            match = _REQUEST_LINE.match(head)
            if match is None:
                raise self._bad_line(head)
            token, target, major, minor = match.groups()
            if fields_start > limits.request_line + 2:
                raise HTTPError(414, "The request line is too long.", close=True)
            if major != b"1" or minor not in (b"0", b"1"):
                raise HTTPError(505, "This server speaks HTTP/1.0 and HTTP/1.1 here.", close=True)
            http_1_1 = minor == b"1"
        section = head[fields_start:] if http_1_1 and len(head) - fields_start <= self._remembered else b""
        known = _sections.get(section)
        if known is not None and len(known[0]) <= limits.request_fields:
            fields = known[0][:]
            self.keep_alive = known[1]
            chunked = False
            length = None
            upgrade = b""
            if known_line is not None:
                _latest = (head, limits, *known_line[:5], *known)
        else:
            fields, length, chunked, upgrade = self._read_fields(head, fields_start, http_1_1)
            if section and length is None and not (chunked or upgrade or self.expect_continue):
                if len(_sections) >= _REMEMBERED_SECTIONS:
                    _sections.clear()
                _sections[section] = (fields[:], self.keep_alive)
        size = None if chunked else int(length) if length is not None else 0
        if known_line is not None:
            method, target, path, query, version, _ = known_line
            return _new_request((method, target, path, query, version, fields, size, upgrade, self._connection, ""))
        known_method = _METHODS.get(token)
        # Applications are told the method in upper case.
        method = known_method or token.upper().decode("ascii")
        if known_method is None:
            if method == "CONNECT":
                # Whatever its target is: behind a 200 the peer would take all that follows for a tunnel.
                raise HTTPError(501, "This server is no proxy.", close=True)
            if method == "HEAD":
                # A peer to which it is some other method (they are case-sensitive) waits for the content, and must not find the next
                # response.
                self.keep_alive = False

        origin_form = target[:1] == b"/"
        if origin_form:
            path, _, query = target.partition(b"?")
        else:
            path, query, fields = self._other_form(token, target, fields)
        if not path.isascii():
            # The head is sound, so the connection goes on, as daphne's does; unless what follows would be misunderstood on either side.
            close = not self.keep_alive or chunked or length not in (None, b"0") or method == "HEAD"
            raise HTTPError(400, "Invalid characters in path", close=close)
        version = "1.1" if http_1_1 else "1.0"
        if line and origin_form and known_method is not None:
            if len(_lines) < _REMEMBERED_LINES:
                _lines[line] = (method, target, path, query, version, http_1_1)
            elif not next(_unknown_lines) % _UNKNOWN_LINES:
                _lines.clear()
        return _new_request((method, target, path, query, version, fields, size, upgrade, self._connection, ""))

    def _read_fields(self, head: bytes, start: int, http_1_1: bool) -> tuple[list[tuple[bytes, bytes]], bytes | None, bool, bytes]:
        """Return the field lines, ``Content-Length``, whether the body is chunked, and ``Upgrade``; sets what belongs to the request."""
        parser = self._parser or HttpRequestParser(self._fields)
        # A parser that has seen a body announced, an upgrade or an error waits for what it is never given: a new one next time.
        self._parser = None
        fields, special, parser = self._parse_fields(parser, head, start)

        self.keep_alive = http_1_1
        host: bytes | None = None
        length: bytes | None = None
        chunked = False
        upgrade = b""
        for name, value in special:
            if name == b"host":
                if host is not None:
                    raise bad_request("The request has more than one Host field.")
                # RFC 9112 section 3.3: for an empty one a default applies, here the application's.
                if value and not valid_authority(value):
                    raise bad_request("The Host field is malformed.")
                host = value
            elif name == b"connection":
                if value.lower() == b"close" or b"close" in elements([value.lower()]):
                    self.keep_alive = False
            elif name == b"content-length":
                if length is not None or CONTENT_LENGTH.fullmatch(value) is None:
                    raise bad_request("The Content-Length field is malformed or repeated.")
                length = value
            elif name == b"transfer-encoding":
                # RFC 9112 section 6.1: only "chunked", once, and never from a client that may not know it.
                if chunked or not http_1_1:
                    raise bad_request("The Transfer-Encoding field is repeated or not allowed here.")
                if value.lower() != b"chunked":
                    raise HTTPError(501, "The only transfer coding supported is chunked.", close=True)
                chunked = True
            elif name == b"upgrade":
                upgrade = upgrade + b"," + value.lower() if upgrade else value.lower()
            elif http_1_1:
                # Expect; RFC 9110 section 10.1.1 has HTTP/1.0 clients' expectations ignored.
                if value.lower() == b"100-continue" or expects_continue(value):
                    self.expect_continue = True
                elif elements([value]):
                    raise HTTPError(417, "The only expectation supported is 100-continue.", close=True)
        if b"," in upgrade:
            # RFC 9110 section 5.6.1: empty elements of a list are ignored.
            upgrade = b",".join(elements([upgrade]))
        if chunked and length is not None:
            raise bad_request("The request has both Content-Length and Transfer-Encoding.")
        if host is None and http_1_1:
            raise bad_request("The request has no Host field.")
        if length is None and not (chunked or upgrade) and self.keep_alive:
            self._parser = parser
        return fields, length, chunked, upgrade

    def _parse_fields(
        self, parser: HttpRequestParser, head: bytes, start: int
    ) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], HttpRequestParser]:
        """Return all field lines, those that matter to the server, and the parser that read them."""
        fields = self._fields
        try:
            parser.feed_data(_FIXED_LINE + head[start:])
        except HttpParserUpgrade:
            pass
        except HttpParserError:
            # llhttp takes a tab after Transfer-Encoding and Content-Length for a part of the value (RFC 9112 section 5: OWS).
            stripped = _TRAILING_BLANKS.sub(b"", head)
            special = fields.special
            fields.all, fields.special = [], []
            if stripped == head:
                raise self._bad_fields(special) from None
            return self._parse_fields(HttpRequestParser(fields), stripped, start)
        result, special = fields.all, fields.special
        fields.all, fields.special = [], []
        limits = self._limits
        if len(result) > limits.request_fields:
            raise HTTPError(431, "The request has too many header fields.", close=True)
        if len(head) > limits.request_field_size and any(len(name) + len(value) + 2 > limits.request_field_size for name, value in result):
            raise HTTPError(431, "A header field is too long.", close=True)
        return result, special, parser

    @staticmethod
    def _bad_fields(special: list[tuple[bytes, bytes]]) -> HTTPError:
        for name, value in special:
            if name == b"transfer-encoding" and TOKEN.fullmatch(value) and value.lower() != b"chunked":
                return HTTPError(501, "The only transfer coding supported is chunked.", close=True)
        return bad_request("The header section is malformed.")

    def _bad_line(self, head: bytes) -> HTTPError:
        if head.find(b"\r\n") > self._limits.request_line:
            return HTTPError(414, "The request line is too long.", close=True)
        return bad_request("The request line is malformed.")

    @staticmethod
    def _other_form(token: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
        """Path, query and fields of a request whose target is not in origin-form (RFC 9112 section 3.2)."""
        if target == b"*" and token == b"OPTIONS":
            return target, b"", fields
        absolute = _ABSOLUTE.match(target)
        # RFC 9110 section 4.2.1: a host that is empty makes the target invalid.
        if absolute is None or not valid_authority(absolute[1]):
            raise bad_request("The request target is malformed.")
        # RFC 9112 section 3.2.2: the target's authority takes the place of the Host field, which HTTP/1.0 may do without.
        host = (b"host", absolute[1])
        fields = [host if field[0] == b"host" else field for field in fields]
        if host not in fields:
            fields.insert(0, host)
        _, _, query = target.partition(b"?")
        return absolute[2] or b"/", query, fields


def check_fields(block: bytes) -> None:
    """Check a trailer section (RFC 9112 section 7.1.2): field lines, each with its CRLF, without the empty line behind them.

    :raises HTTPError: 400.
    """
    try:
        HttpRequestParser(_Fields()).feed_data(_FIXED_LINE + block + b"\r\n")
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise bad_request("The trailer section is malformed.") from None
