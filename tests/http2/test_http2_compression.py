"""HPACK against the hpack package, priorities, budgets: the parts of HTTP/2 that need no connection."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.core.turns import Turn
from greendaphne.http2.budgets import Budget, EnhanceYourCalm
from greendaphne.http2.compression import MALFORMED, CompressionError, Field, RequestDecoder, ResponseEncoder
from greendaphne.http2.fields import valid_field
from greendaphne.http2.priority import Scheduler, parse_priority

names = st.sampled_from(
    [b":status", b"content-type", b"set-cookie", b"etag", b"x-a", b"x-b", b"x-" + b"n" * 40, b"date", b"content-length"]
)
values = st.one_of(
    st.sampled_from([b"", b"200", b"404", b"299", b"text/html", b"gzip, deflate"]),
    st.binary(max_size=20),
    st.binary(min_size=100, max_size=3000),
)
sections = st.lists(st.tuples(names, values), max_size=12)
SIZES = st.integers(0, 6000)


def anything(name: bytes, value: bytes) -> bool:
    return True


def decoder(limit: int = 1_000_000, valid: Callable[[bytes, bytes], bool] = anything) -> RequestDecoder:
    return RequestDecoder(limit, 4, valid, 16384, Turn(), lambda: None)


@given(st.lists(st.tuples(sections, st.lists(SIZES, max_size=3)), max_size=8))
def test_what_the_encoder_writes_hpack_reads(steps: list[tuple[list[Field], list[int]]]) -> None:
    encoder = ResponseEncoder()
    reader = hpack.Decoder(max_header_list_size=10**6)
    for fields, resizes in steps:
        for size in resizes:
            encoder.header_table_size = size
            # What the peer has announced is the most it will take.
            reader.max_allowed_table_size = size
        assert [tuple(field) for field in reader.decode(encoder.encode(fields), raw=True)] == fields


@given(st.lists(st.tuples(sections, st.lists(st.integers(0, 4096), max_size=3), st.booleans()), max_size=8))
def test_what_hpack_writes_the_decoder_reads(steps: list[tuple[list[Field], list[int], bool]]) -> None:
    writer = hpack.Encoder()
    reader = decoder()
    for fields, resizes, huffman in steps:
        for size in resizes:
            # hpack's encoder forgets to signal a size that it is given twice.
            if size != writer.header_table_size:
                writer.header_table_size = size
        assert reader.decode(writer.encode(fields, huffman=huffman)) == fields
        assert reader.list_size == sum(len(name) + len(value) + 32 for name, value in fields)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_octets_decode_or_are_an_error(blocks: list[bytes]) -> None:
    reader = decoder()
    other = hpack.Decoder(max_header_list_size=10**6)
    for block in blocks:
        try:
            mine = reader.decode(block)
        except CompressionError:
            return
        # Whatever is accepted means the same to hpack.
        assert [tuple(field) for field in other.decode(block, raw=True)] == mine


def test_repeated_sections_become_small() -> None:
    encoder = ResponseEncoder()
    fields = [(b":status", b"200"), (b"content-type", b"text/html"), (b"x-frame-options", b"DENY"), (b"vary", b"cookie")]
    encoder.encode(fields)
    assert len(encoder.encode(fields)) == len(fields)


@pytest.mark.parametrize(
    "name", [b"content-length", b"content-range", b"etag", b"last-modified", b"location", b"age", b"expires", b"retry-after"]
)
def test_fields_that_differ_each_time_push_nothing_out(name: bytes) -> None:
    encoder = ResponseEncoder()
    first = encoder.encode([(name, b"value of its own")])
    # RFC 7541 section 6.2.2: a literal without indexing.
    assert first[0] >> 4 == 0
    assert encoder.encode([(name, b"value of its own")]) == first


@pytest.mark.parametrize("name", [b"x-own-name", b"server"])
def test_a_field_of_more_than_half_the_table_is_not_indexed(name: bytes) -> None:
    for more in (0, 1):
        encoder, reader = ResponseEncoder(), hpack.Decoder()
        encoder.header_table_size = reader.max_allowed_table_size = 1000
        # RFC 7541 section 4.1: 32 octets more than name and value.
        fields = [(name, b"v" * (500 - 32 - len(name) + more))]
        sizes = []
        for _ in range(2):
            block = encoder.encode(list(fields))
            assert [tuple(field) for field in reader.decode(block, raw=True)] == fields
            sizes.append(len(block))
        assert (sizes[1] == 1) == (not more)


def test_secrets_are_never_indexed() -> None:
    encoder = ResponseEncoder()
    fields = [(b"set-cookie", b"sessionid=secret")]
    first = encoder.encode(fields)
    assert first[0] & 0xF0 == 0x10
    assert encoder.encode(fields) == first
    (field,) = hpack.Decoder().decode(first, raw=True)
    assert isinstance(field, hpack.NeverIndexedHeaderTuple)


def test_a_list_over_the_limit_leaves_the_tables_in_step() -> None:
    writer = hpack.Encoder()
    reader = decoder(1000)
    assert reader.decode(writer.encode([(b"x-%d" % n, b"y" * 60) for n in range(12)])) is None
    assert reader.decode(writer.encode([(b"x-11", b"y" * 60)])) == [(b"x-11", b"y" * 60)]
    with pytest.raises(EnhanceYourCalm):
        reader.decode(writer.encode([(b"x-%d" % n, b"y" * 60) for n in range(50)]))


def test_an_invalid_field_is_marked_wherever_it_is_referred_to_and_no_other_is() -> None:
    writer = hpack.Encoder()
    reader = decoder(valid=valid_field)
    good, bad = (b"x-good", b"1"), (b"x-bad", b"a\nb")
    assert reader.decode(writer.encode([good, bad])) == [good, MALFORMED]
    # Both are in the table now.
    assert reader.decode(writer.encode([good])) == [good]
    assert reader.decode(writer.encode([bad, good])) == [MALFORMED, good]
    # The name of the invalid one is valid, and a literal may refer to it.
    assert reader.decode(writer.encode([(b"x-bad", b"2")])) == [(b"x-bad", b"2")]


def test_a_string_that_no_request_may_have_is_not_decoded() -> None:
    """A Huffman code of 16 KiB takes milliseconds; the table stays in step without it."""
    writer = hpack.Encoder()
    reader = decoder(65536)
    writer.encode([(b"x-first", b"1")])
    reader.decode(hpack.Encoder().encode([(b"x-first", b"1")]))
    assert reader.decode(writer.encode([(b"x-long", b"a" * 40_000)])) is None
    # The entry was larger than the table, which is empty now on both sides.
    assert reader.decode(writer.encode([(b"x-next", b"2")])) == [(b"x-next", b"2")]
    assert reader.decode(writer.encode([(b"x-next", b"2")])) == [(b"x-next", b"2")]
    with pytest.raises(CompressionError):
        reader.decode(b"\x20" * 9)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", (None, None)),
        (b"u=0", (0, None)),
        (b"u=7, i", (7, True)),
        (b"i;foo=1,u=2;bar", (2, True)),
        (b"i=?0", (None, False)),
        (b"u=5,u=3", (3, None)),
        (b"u=8", (None, None)),
        (b"u=-1, i=1", (None, None)),
        (b"u=?1", (None, None)),
        (b"u=12", (None, None)),
        (b"\tu=1 ,\ti ", (1, True)),
        (b",,=;", (None, None)),
        (b'other="x, u=2', (2, None)),
    ],
)
def test_priority_values(value: bytes, expected: tuple[int | None, bool | None]) -> None:
    assert parse_priority(value) == expected


@given(st.binary(max_size=50))
def test_any_priority_value_is_taken(value: bytes) -> None:
    urgency, incremental = parse_priority(value)
    assert urgency is None or 0 <= urgency <= 7
    assert incremental in (None, True, False)


class Item:
    """A stream with so many frames to send."""

    def __init__(self, number: int, urgency: int, incremental: bool, frames: int) -> None:
        self.number = number
        self.urgency = urgency
        self.incremental = incremental
        self.frames = frames
        self.scheduled = False


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.integers(1, 4)), max_size=12), st.data())
def test_the_scheduler_serves_by_urgency_and_serves_all(streams: list[tuple[int, bool, int]], data: st.DataObject) -> None:
    scheduler: Scheduler[Item] = Scheduler()
    waiting = [Item(n, *stream) for n, stream in enumerate(streams)]
    for item in waiting:
        scheduler.add(item)
        scheduler.add(item)
    assert len(scheduler) == len(waiting)
    while waiting:
        if data.draw(st.booleans()):
            changed = data.draw(st.sampled_from(waiting))
            scheduler.change(changed, data.draw(st.integers(0, 7)), data.draw(st.booleans()))
        first = scheduler.first()
        assert first is not None
        assert first.urgency == min(other.urgency for other in waiting)
        first.frames -= 1
        if first.frames:
            scheduler.served(first)
        else:
            scheduler.remove(first)
            waiting.remove(first)
    assert scheduler.first() is None
    assert len(scheduler) == 0


def test_a_budget() -> None:
    budget = Budget("things", 3, 1000)
    budget.spend()
    budget.spend(2)
    with pytest.raises(EnhanceYourCalm, match="too many things"):
        budget.spend()


def test_a_section_that_comes_again_is_the_same_object_until_the_table_changes() -> None:
    reader, writer = decoder(), hpack.Encoder()
    get = [(b":method", b"GET"), (b":path", b"/")]
    block = writer.encode(get)
    first = reader.section(block)
    assert first.fields == get
    assert reader.section(block) is first
    # An entry moves all others of the dynamic table.
    moved = writer.encode([(b"x-new", b"1")])
    assert reader.section(moved).fields == [(b"x-new", b"1")]
    again = reader.section(block)
    assert again is not first
    assert again.fields == get


def test_an_index_means_another_field_after_an_insertion() -> None:
    reader = decoder()
    insert = b"\x40\x01a\x01%d"
    assert reader.section(insert % 1).fields == [(b"a", b"1")]
    assert reader.section(b"\xbe").fields == [(b"a", b"1")]
    assert reader.section(b"\xbe").fields == [(b"a", b"1")]
    assert reader.section(insert % 2).fields == [(b"a", b"2")]
    assert reader.section(b"\xbe").fields == [(b"a", b"2")]
    # A table of size 0 is empty.
    assert reader.section(b"\x20").fields == []
    with pytest.raises(CompressionError):
        reader.section(b"\xbe")


def test_the_block_of_the_last_response_is_used_again_only_where_it_means_the_same() -> None:
    encoder, reader = ResponseEncoder(), hpack.Decoder()
    fields = [(b":status", b"200"), (b"x-a", b"1")]
    other = [(b":status", b"200"), (b"x-b", b"2")]
    for each in (fields, fields, fields, other, fields, fields, other, other):
        assert [tuple(field) for field in reader.decode(encoder.encode(each), raw=True)] == each
    assert encoder.encode(other) is encoder.encode(other)
    encoder.header_table_size = 0
    reader.max_allowed_table_size = 4096
    assert [tuple(field) for field in reader.decode(encoder.encode(other), raw=True)] == other
