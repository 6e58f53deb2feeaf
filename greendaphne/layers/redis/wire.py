"""What asgi_redis 1.4.3 and this layer agree on: names of keys, choice of shard, form of a message.

Pure functions and one value object, without any I/O.  A change here breaks deployments in which both layers share a Redis.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgpack  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from cryptography.fernet import Fernet, MultiFernet

Message = dict[str, Any]

#: Carries the full name of a process-specific channel inside the message, because the list is named by the part up to ``!``.
FULL_NAME = "__asgi_channel__"

#: Redis' own bound of a value (``proto-max-bulk-len``), in bytes; nothing larger can be stored.
VALUE_LIMIT = 512 * 1024 * 1024

#: Seconds by which an encrypted message may outlive its expiry before it is refused, for clocks that differ.
ENCRYPTION_GRACE = 10

#: Number of slots on the ring that shards divide among themselves.
RING_SLOTS = 4096

STAT_MESSAGES_COUNT = "messages_count"
STAT_MESSAGES_PENDING = "messages_pending"
STAT_MESSAGES_MAX_AGE = "messages_max_age"
STAT_CHANNEL_FULL = "channel_full_count"

#: Stands where a channel name stands in counters; no valid channel name.
GLOBAL_STATISTICS = "#global#"
#: Life of the counters in seconds after their last change.
GLOBAL_STATISTICS_EXPIRY = 86400
CHANNEL_STATISTICS_EXPIRY = 3600


def shard_of(name: str, shards: int) -> int:
    """The shard, 0 to ``shards - 1``, on which the group or the non-normal channel ``name`` lives."""
    return int((binascii.crc32(name.encode()) & (RING_SLOTS - 1)) / (RING_SLOTS / float(shards)))


def group_key(prefix: str, group: str) -> str:
    """The key of the sorted set that holds the members of ``group``."""
    return f"{prefix}:group:{group}"


def marker_key(prefix: str) -> str:
    """The key whose disappearance shows that the data was lost; no channel's, since names cannot begin with a colon."""
    return f"{prefix}:epoch"


def escape_glob(text: str) -> str:
    """Return a pattern of Redis' ``SCAN`` that matches ``text`` literally."""
    return "".join("\\" + character if character in "*?[]^-\\" else character for character in text)


def make_fernet(key: str | bytes) -> Fernet:
    """The cipher that belongs to the passphrase ``key``."""
    from cryptography.fernet import Fernet

    if isinstance(key, str):
        key = key.encode()
    return Fernet(urlsafe_b64encode(hashlib.sha256(key).digest()))


def make_crypter(keys: Iterable[str | bytes] | None) -> MultiFernet | None:
    """The cipher for a list of passphrases: the first encrypts, all decrypt.  ``None`` or an empty list mean none.

    :raises ValueError: for a single passphrase in place of a list, or without the package ``cryptography``.
    """
    if isinstance(keys, (str, bytes)):
        raise ValueError("symmetric_encryption_keys must be a list of possible keys")
    keys = list(keys or ())
    if not keys:
        return None
    try:
        from cryptography.fernet import MultiFernet
    except ImportError:
        raise ValueError("Cannot run with encryption without 'cryptography' installed.") from None
    return MultiFernet([make_fernet(key) for key in keys])


#: Packers that are not in use, one for each thread that packs at a time: to make one costs as much as a small message.
_packers: list[Any] = []
#: The largest message after which a packer, which keeps its buffer, is used again.
_PACKER_LIMIT: Final = 65536


def pack_message(message: Message) -> bytes:
    """``message`` as msgpack, with bytes and text told apart."""
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer(use_bin_type=True)
    # One that fails is not used again.
    packed: bytes = packer.pack(message)
    if len(packed) <= _PACKER_LIMIT:
        _packers.append(packer)
    return packed


def unpack_message(data: bytes) -> Message:
    """The message in ``data``.

    :raises ValueError: for anything but one msgpack map.
    """
    try:
        message = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:  # noqa: BLE001 - a map whose key is an array is a TypeError, and the decoder has more ways to fail
        # The error's text may quote the message.
        raise ValueError(f"not msgpack ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise ValueError("not a map")
    return message


def full_name(message: Message, channel: str) -> str:
    """The full name of the channel that ``message``, from the list ``channel``, was sent to; it is taken out of the message.

    :raises ValueError: for a name that does not belong to this list.
    """
    name = message.pop(FULL_NAME, channel)
    if type(name) is not str or not name.startswith(channel):
        raise ValueError(f"its {FULL_NAME} is not a name of this channel")
    return name


#: A channel's name as the specification has it, for names that other processes stored.
_channel_name = re.compile(rb"[A-Za-z0-9\-_.]+(?:![A-Za-z0-9\-_.]*|\?[A-Za-z0-9\-_.]+)?").fullmatch
#: Names are shorter than this (specification).
NAME_LENGTH = 100


def is_channel_name(name: bytes) -> bool:
    """Whether ``name``, a member of a group in Redis, is the name of a channel."""
    return len(name) < NAME_LENGTH and _channel_name(name) is not None


def open_body(message: Message, body: bytes) -> bytes:
    """``body``, the packed ``message``, prepared for the full name of a channel: only the packed name is to be appended.

    A group's members share everything else of the body, so one script can complete it for each of them.
    """
    size = len(message)
    header = 1 if size < 16 else 3 if size < 65536 else 5
    return b"".join((msgpack.Packer().pack_map_header(size + 1), body[header:], msgpack.packb(FULL_NAME)))
