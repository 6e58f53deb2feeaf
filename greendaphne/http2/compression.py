"""HPACK (RFC 7541) made for a server: requests are decoded, responses encoded, both with what repeats remembered.

The decoder works on positions instead of copies and checks a field once, when it is received as a literal, instead of whenever it is
referred to.  It goes on decoding a list that is too large without keeping it, so that such a request can be answered and the connection
lives.  The encoder finds table entries by hash where hpack's searches, and never holds more than 4 KiB of table, whatever size the peer
allows.  Static table, Huffman code and errors are hpack's, from modules that it does not document; a test names what is used of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from ..core.turns import Turn
from .budgets import EnhanceYourCalm

#: A header field; its name is lower-case on the wire.
Field = tuple[bytes, bytes]
#: A field of a table: the field, its size (RFC 7541 section 4.1) and its name.
Entry = tuple[Field, int, bytes]

#: Stands for a field that is not valid in itself: no kind of message may have a pseudo-field of this name.
MALFORMED: Field = (b":", b"")

#: The size of both dynamic tables: the protocol's initial value (RFC 9113 section 6.5.2), announced and never changed.
TABLE_SIZE = 4096
#: What an entry counts for besides its octets (RFC 7541 section 4.1).
ENTRY_OVERHEAD = 32

_FIRST_DYNAMIC = HeaderTable.STATIC_TABLE_LENGTH + 1
#: Octets of an integer after its prefix: 28 bits are more than any length or index within the limits (RFC 7541 section 5.1).
_INTEGER_SHIFT_LIMIT = 28
#: Strings up to this length are remembered with their Huffman code, a bounded number of them.
_REMEMBERED_LENGTH = 128
_REMEMBERED_STRINGS = 4096
#: The longest code of RFC 7541 appendix B, in bits.
_LONGEST_CODE = 30
#: Table size updates in one section: RFC 7541 section 4.2 has a use for two.
_MAX_RESIZES = 8
#: A literal counts for one unit of a turn, and for one more for each 64 octets.
_OCTETS_SHIFT = 6
#: Header sections that are remembered for a connection, and the longest, in octets: a client that repeats its requests has few.
_KNOWN_SECTIONS = 4
_KNOWN_LENGTH = 256
#: The longest encoded section that a connection keeps for the next response, in octets.
_KEPT_BLOCK = 1024
# Stands for a name that was not decoded.
_TOO_LONG = b"(too long)"


class CompressionError(ProtocolError):
    """A header section that cannot be decompressed; the connection's tables are lost with it (RFC 9113 section 4.3)."""

    error_code = ErrorCodes.COMPRESSION_ERROR


_remembered_huffman = lru_cache(_REMEMBERED_STRINGS)(decode_huffman)


def _integer(data: bytes, position: int, value: int) -> tuple[int, int]:
    """The integer that continues at ``position`` behind a prefix of all ones, ``value``; and the position behind it."""
    shift = 0
    while True:
        octet = data[position]
        position += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
        shift += 7
        if shift >= _INTEGER_SHIFT_LIMIT:
            raise CompressionError("an integer is too long")


def _string(data: bytes, position: int, longest: int) -> tuple[bytes | None, int]:
    """The string literal at ``position`` (RFC 7541 section 5.2), and the position behind it.

    :param longest: a string with more octets than this in its Huffman code is not decoded; ``None`` stands for it.
    """
    first = data[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = _integer(data, position, length)
    end = position + length
    string = data[position:end]
    if end > len(data):
        raise CompressionError("a string is cut short")
    if first & 0x80:
        if length <= _REMEMBERED_LENGTH:
            return _remembered_huffman(string), end
        if length > longest:
            return None, end
        return decode_huffman(string), end
    return string, end


class Section:
    """A header section that was received.

    :param fields: not to be changed, because the decoder remembers them; ``None`` for a list that is too large.
    :param size: the size of the list, as RFC 9113 section 6.5.2 counts it.
    """

    __slots__ = ("fields", "meaning", "remembered", "size")

    def __init__(self, fields: list[Field] | None, size: int) -> None:
        self.fields = fields
        self.size = size
        #: Whether the decoder returns the same object when the same section comes again.
        self.remembered = False
        #: What the reader of the section has made of it, for the next time that the same section is received.
        self.meaning: object = None


class RequestDecoder:
    """Decodes the header sections of one connection.

    :param max_list_size: the largest list returned, as RFC 9113 section 6.5.2 counts it.
    :param excess: times ``max_list_size`` at which the connection ends.
    :param longest: the longest name or value that is of use, in octets.
    :param turn: counts the literals; their Huffman code costs a microsecond for every eight octets.
    :param pause: called where ``turn`` has nothing left, may switch greenlets; the section at hand has had no effect but on the table.
    :param valid: judges a field on its own; :data:`MALFORMED` stands for one that is not valid, in the lists returned.
    """

    __slots__ = (
        "_changed",
        "_entries",
        "_excessive_size",
        "_known",
        "_longest",
        "_max_list_size",
        "_pause",
        "_size",
        "_table_size",
        "_turn",
        "_valid",
        "list_size",
    )

    def __init__(
        self,
        max_list_size: int,
        excess: int,
        valid: Callable[[bytes, bytes], bool],
        longest: int,
        turn: Turn,
        pause: Callable[[], None],
    ) -> None:
        self._max_list_size = max_list_size
        self._excessive_size = max_list_size * excess
        self._valid = valid
        # An entry with a string that is longer is larger than the table, so what it is does not matter to later sections.
        self._longest = max(longest, TABLE_SIZE * _LONGEST_CODE // 8)
        self._turn = turn
        self._pause = pause
        # Fields as they are returned, their sizes and their names, the newest first.
        self._entries: deque[Entry] = deque()
        self._size = 0
        self._table_size = TABLE_SIZE
        #: The size of the last list, as RFC 9113 section 6.5.2 counts it.
        self.list_size = 0
        # The latest sections by their encoded form, which means the same as long as the table is the same.
        self._known: dict[bytes, Section] = {}
        # Whether the table is another one than when the sections were decoded.
        self._changed = False

    def section(self, data: bytes) -> Section:
        """Decode a complete header section.

        :raises CompressionError: for what is no HPACK.
        :raises EnhanceYourCalm: for a list too large by far.
        """
        known = self._known
        section = known.get(data)
        if section is None:
            fields = self.decode(data)
            section = Section(fields, self.list_size)
            if self._changed:
                self._changed = False
                known.clear()
            elif fields is not None and len(data) <= _KNOWN_LENGTH:
                if len(known) >= _KNOWN_SECTIONS:
                    known.clear()
                known[data] = section
                section.remembered = True
        return section

    def decode(self, data: bytes) -> list[Field] | None:
        """Return the fields of a complete header section, ``None`` for a list that is too large.

        :raises CompressionError: for what is no HPACK.
        :raises EnhanceYourCalm: for a list too large by far.
        """
        fields: list[Field] = []
        append = fields.append
        entries = self._entries
        total = 0
        position = 0
        end = len(data)
        resizes = 0
        turn = self._turn
        try:
            while position < end:
                octet = data[position]
                if octet > 0x80:
                    # RFC 7541 section 6.1: an indexed field.
                    position += 1
                    index = octet & 0x7F
                    if index == 0x7F:
                        index, position = _integer(data, position, index)
                    field, size, _ = _STATIC[index] if index < _FIRST_DYNAMIC else entries[index - _FIRST_DYNAMIC]
                elif octet & 0xE0 == 0x20:
                    if fields or total:
                        raise CompressionError("a table size update behind a field")
                    resizes += 1
                    if resizes > _MAX_RESIZES:
                        raise CompressionError("too many table size updates")
                    position = self._resize(data, position)
                    continue
                else:
                    start = position
                    field, size, position = self._literal(data, position, octet)
                    turn.left -= 1 + (position - start >> _OCTETS_SHIFT)
                    if turn.left <= 0:
                        self._pause()
                total += size
                if total <= self._max_list_size:
                    append(field)
                elif total > self._excessive_size:
                    raise EnhanceYourCalm("a header list is far too large")
        except (IndexError, HPACKDecodingError):
            raise CompressionError("a header section is malformed") from None
        self.list_size = total
        return fields if total <= self._max_list_size else None

    def _literal(self, data: bytes, position: int, octet: int) -> tuple[Field, int, int]:
        """The literal field at ``position`` (RFC 7541 section 6.2), its size, and the position behind it."""
        if octet == 0x80:
            raise CompressionError("the index 0 is used")
        indexing = octet & 0x40
        mask = 0x3F if indexing else 0x0F
        index = octet & mask
        position += 1
        if index == mask:
            index, position = _integer(data, position, index)
        if index == 0:
            text, position = _string(data, position, self._longest)
            name = _TOO_LONG if text is None else text
        else:
            name = (_STATIC[index] if index < _FIRST_DYNAMIC else self._entries[index - _FIRST_DYNAMIC])[2]
        start = position
        value, position = _string(data, position, self._longest)
        if value is None or name is _TOO_LONG:
            # Whatever it says, the list is too large with it.  No Huffman code makes a string longer by choice.
            field = MALFORMED
            size = ENTRY_OVERHEAD + self._max_list_size + position - start
        else:
            field = (name, value) if self._valid(name, value) else MALFORMED
            size = ENTRY_OVERHEAD + len(name) + len(value)
        if indexing:
            self._changed = True
            self._entries.appendleft((field, size, name))
            self._size += size
            if self._size > self._table_size:
                self._evict()
        return field, size, position

    def _resize(self, data: bytes, position: int) -> int:
        """Apply the table size update at ``position`` (RFC 7541 section 6.3); returns the position behind it."""
        size = data[position] & 0x1F
        position += 1
        if size == 0x1F:
            size, position = _integer(data, position, size)
        if size > TABLE_SIZE:
            raise CompressionError("a table size update exceeds the table size allowed")
        self._table_size = size
        self._changed = True
        self._evict()
        return position

    def _evict(self) -> None:
        # An entry larger than the whole table empties it, itself included (RFC 7541 section 4.4).
        while self._size > self._table_size:
            self._size -= self._entries.pop()[1]


_STATIC: list[Entry] = [
    ((name, value), ENTRY_OVERHEAD + len(name) + len(value), name) for name, value in ((b"", b""), *HeaderTable.STATIC_TABLE)
]


def _encode_integer(value: int, prefix: int, flags: int) -> bytes:
    """``value`` with a prefix of ``prefix`` bits (RFC 7541 section 5.1) beside ``flags``."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((flags | value,))
    octets = [flags | most]
    value -= most
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def _plain_string(string: bytes) -> bytes:
    return _encode_integer(len(string), 7, 0) + string


def _short_string(string: bytes) -> bytes:
    """``string`` as a literal, Huffman-coded where that is shorter; costs a microsecond for every few octets."""
    coded = _huffman.encode(string)
    if len(coded) < len(string):
        return _encode_integer(len(coded), 7, 0x80) + coded
    return _plain_string(string)


_STATIC_NAMES: dict[bytes, int] = {}
_INDEXED_STATIC: dict[Field, bytes] = {}
for _index, _entry in enumerate(_STATIC[1:], 1):
    _STATIC_NAMES.setdefault(_entry[2], _index)
    _INDEXED_STATIC[_entry[0]] = _encode_integer(_index, 7, 0x80)

#: Indexed representations of the dynamic entries, by age; a table of 4096 holds 128 entries at most.
_INDEXED_DYNAMIC = [_encode_integer(_FIRST_DYNAMIC + age, 7, 0x80) for age in range(TABLE_SIZE // ENTRY_OVERHEAD)]

# RFC 7541 section 7.1.3: secrets stay out of the tables, here and in whatever passes them on.
_NEVER_INDEXED = frozenset((b"set-cookie", b"authentication-info", b"proxy-authentication-info"))
# Fields that differ from one response to the next would only push others out of the table.
_NOT_INDEXED = frozenset((b"content-length", b"content-range", b"etag", b"last-modified", b"location", b"age", b"expires", b"retry-after"))


def _name(name: bytes, prefix: int, flags: int) -> bytes:
    index = _STATIC_NAMES.get(name)
    return _encode_integer(index, prefix, flags) if index else bytes((flags,)) + _short_string(name)


@lru_cache(_REMEMBERED_STRINGS)
def _literal_name(name: bytes, flags: int) -> bytes:
    return _name(name, 4, flags)


@lru_cache(_REMEMBERED_STRINGS)
def _indexed_literal(field: Field) -> bytes:
    """``field`` as a literal with incremental indexing (RFC 7541 section 6.2.1)."""
    return _name(field[0], 6, 0x40) + _short_string(field[1])


class ResponseEncoder:
    """Encodes the header sections of one connection."""

    __slots__ = ("_block", "_block_at", "_entries", "_fields", "_inserted", "_numbers", "_resizes", "_size", "_table_size")

    def __init__(self) -> None:
        # Fields with their sizes, the oldest first, and the number under which each was inserted, counted from 1.
        self._entries: deque[tuple[Field, int]] = deque()
        self._numbers: dict[Field, int] = {}
        self._inserted = 0
        self._size = 0
        self._table_size = TABLE_SIZE
        # Table sizes to be signalled with the next header section: the smallest since the last one, and the current one.
        self._resizes: list[int] = []
        # The last list of fields with its encoded form, which is the same until a field is inserted after ``_block_at`` others.
        self._fields: Sequence[Field] | None = None
        self._block = b""
        self._block_at = 0

    @property
    def header_table_size(self) -> int:
        """The table's size; assigned when the peer's SETTINGS_HEADER_TABLE_SIZE changes."""
        return self._table_size

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, TABLE_SIZE)
        if size == self._table_size and not self._resizes:
            return
        self._resizes = [min((size, *self._resizes)), size]
        self._table_size = size
        self._fields = None
        self._evict()

    def encode(self, fields: Sequence[Field]) -> bytes:
        """The header section of ``fields``.

        :param fields: not changed afterwards: when the same object comes next, its encoded form is known.
        """
        inserted = self._inserted
        if fields is self._fields and self._block_at == inserted:
            return self._block
        parts: list[bytes] = []
        append = parts.append
        resized = bool(self._resizes)
        if resized:
            # RFC 7541 section 4.2: the smallest size, then the final one.
            for size in dict.fromkeys(self._resizes):
                append(_encode_integer(size, 5, 0x20))
            self._resizes = []
        numbers = self._numbers
        for field in fields:
            number = numbers.get(field)
            if number is not None:
                append(_INDEXED_DYNAMIC[self._inserted - number])
                continue
            indexed = _INDEXED_STATIC.get(field)
            append(indexed if indexed is not None else self._literal(field))
        block = b"".join(parts)
        if self._inserted == inserted and not resized and len(block) <= _KEPT_BLOCK:
            self._fields = fields
            self._block = block
            self._block_at = inserted
        return block

    def _literal(self, field: Field) -> bytes:
        name, value = field
        if name in _NEVER_INDEXED:
            return _literal_name(name, 0x10) + _plain_string(value)
        size = ENTRY_OVERHEAD + len(name) + len(value)
        # Half the table for one field would not be worth what it pushes out.
        if name in _NOT_INDEXED or size > self._table_size // 2:
            return _literal_name(name, 0) + _plain_string(value)
        self._inserted += 1
        self._numbers[field] = self._inserted
        self._entries.append((field, size))
        self._size += size
        self._evict()
        if len(value) <= _REMEMBERED_LENGTH:
            return _indexed_literal(field)
        return _name(name, 6, 0x40) + _plain_string(value)

    def _evict(self) -> None:
        while self._size > self._table_size:
            field, size = self._entries.popleft()
            del self._numbers[field]
            self._size -= size
