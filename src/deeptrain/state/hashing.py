"""Mixes seeds, purposes and counters into numbers that have nothing to do with one another.

Streams are derived by hashing and never by adding: with sums, seed 0 in epoch 1 is seed 1 in epoch 0.
"""

from __future__ import annotations

import operator
from hashlib import blake2b
from typing import SupportsIndex, TypeAlias

Part: TypeAlias = SupportsIndex | str | bytes

WORD = 8
WORDS_A_HASH = 8  # blake2b gives at most 64 bytes at once


def mix(*parts: Part) -> int:
    """Hash the parts into one number.

    Args:
        *parts: Whole numbers of any size and sign, texts or bytes. Their types count: `1` and `"1"` differ.

    Returns:
        A number in `[0, 2**64)`, the same on every machine and in every version.

    Raises:
        TypeError: A part is of another type.
    """
    return int.from_bytes(blake2b(_encode(parts), digest_size=WORD).digest(), "little")


def mix_many(count: int, *parts: Part) -> list[int]:
    """Hash the parts into `count` numbers, which are unrelated to each other and to `mix(*parts)`.

    Args:
        count: How many numbers.
        *parts: As for `mix`.

    Returns:
        Numbers in `[0, 2**64)`.
    """
    payload = _encode(parts)
    words: list[int] = []
    while len(words) < count:
        salt = len(words).to_bytes(WORD, "little")
        digest = blake2b(payload, digest_size=WORD * WORDS_A_HASH, salt=salt).digest()
        words += [int.from_bytes(digest[at : at + WORD], "little") for at in range(0, len(digest), WORD)]
    return words[:count]


def _encode(parts: tuple[Part, ...]) -> bytes:
    return b"".join(map(_encode_one, parts))


def _encode_one(part: Part) -> bytes:
    # The tag and the length make the joined text unambiguous: ("a", "bc") is not ("ab", "c").
    if isinstance(part, str):
        tag, body = b"s", part.encode()
    elif isinstance(part, bytes):
        tag, body = b"b", part
    else:
        try:
            number = operator.index(part)
        except TypeError:
            msg = f"cannot mix {part!r}: found {type(part).__name__}, expected int, str or bytes"
            raise TypeError(msg) from None
        tag, body = b"i", number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return tag + len(body).to_bytes(WORD, "little") + body
