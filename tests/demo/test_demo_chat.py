"""The demo's chat: what it takes from a browser and what it makes of it."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.demo.chat import BURST, FRAME_LIMIT, INTERVAL, NAME_LIMIT, TEXT_LIMIT, Member, Refused, clean, parse, same_origin

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "text", "x"]), inner, max_size=3),
    max_leaves=10,
)


def frame(name: object = "Ada", text: object = "hello") -> str:
    return json.dumps({"name": name, "text": text})


def test_a_message_is_taken_as_it_is() -> None:
    assert parse(frame("Ada", "Hello <b>you</b> & all")) == ("Ada", "Hello <b>you</b> & all")


def test_the_longest_name_and_text_fit_however_they_are_written() -> None:
    name, text = "\U0001f33f" * NAME_LIMIT, "\U0001f33f" * TEXT_LIMIT
    written = frame(name, text)
    assert "\\ud83c" in written
    assert len(written) <= FRAME_LIMIT
    assert parse(written) == (name, text)


def test_nobody_is_somebody() -> None:
    assert parse(frame("  ", "hello")).name == "Somebody"


@pytest.mark.parametrize(
    "sent",
    [
        None,
        b"bytes",
        "",
        "no json",
        "[]",
        "3",
        '"text"',
        "{}",
        '{"name": "Ada"}',
        frame(3),
        frame(text=["hello"]),
        frame(text="x" * (TEXT_LIMIT + 1)),
        frame(name="x" * (NAME_LIMIT + 1)),
        frame(text=" \n\t "),
        frame(text="\x00\u202e"),
        "[" * FRAME_LIMIT,
        " " * (FRAME_LIMIT + 1),
        frame() + frame(),
    ],
)
def test_anything_else_is_refused_with_a_reason(sent: object) -> None:
    with pytest.raises(Refused, match=r"."):
        parse(sent)


@given(JSON)
def test_any_json_is_taken_or_refused(value: object) -> None:
    try:
        said = parse(json.dumps(value))
    except Refused:
        return
    assert 0 < len(said.text) <= TEXT_LIMIT
    assert 0 < len(said.name) <= NAME_LIMIT


@given(st.text(alphabet=st.characters()))
def test_cleaned_text_is_one_line_that_can_be_sent(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert cleaned == cleaned.strip()
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in cleaned)
    assert cleaned.isprintable() or not set(cleaned) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert clean(cleaned) == cleaned


def test_a_member_may_say_a_few_things_at_once_and_then_one_at_a_time() -> None:
    member = Member(since=1000.0)
    for _ in range(BURST):
        member.spend(1000.0)
    with pytest.raises(Refused, match="slower"):
        member.spend(1000.0 + INTERVAL / 2)
    member.spend(1000.0 + INTERVAL)
    with pytest.raises(Refused, match="slower"):
        member.spend(1000.0 + INTERVAL)


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ([(b"host", b"localhost:8000")], True),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")], True),
        ([(b"host", b"Localhost:8000"), (b"origin", b"https://localhost:8000")], True),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://localhost")], False),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://evil.example")], False),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000@evil.example")], False),
        ([(b"host", b"localhost:8000"), (b"origin", b"null")], False),
        ([(b"host", b"localhost:8000"), (b"origin", b"")], False),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://[")], False),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://\xff")], False),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000"), (b"origin", b"http://evil.example")], False),
        ([(b"origin", b"http://localhost:8000")], False),
    ],
)
def test_only_pages_of_this_server_may_join(headers: list[tuple[bytes, bytes]], same: bool) -> None:
    assert same_origin({"headers": headers}) is same
