"""Strings in columns, laid out so that a comparison with all of them is a few comparisons of 64-bit numbers.

A string is a `head` (its first 8 bytes), a `tail` (the next 8) and an `id`; bytes are read as big-endian numbers and
filled with zeros, so numbers compare as the bytes do, and UTF-8 bytes as the code points. What follows the first 16
bytes lies on the `heap`: a record of 64-bit words (a digest, the length in bytes, the rest of the bytes, a zero), to
which `place` points; equal strings of one batch share a record. No dictionary of all strings is kept anywhere, so it
makes no difference how many distinct ones there are.

Equality is exact. Up to 23 bytes, `id` holds bytes 16 to 22 and the length. Beyond, 56 bits of BLAKE2b stand in `id`,
above the mark `LONG`, and 64 more on the heap: two strings that share 16 bytes and 120 bits of a cryptographic digest
are not found by chance and are not made on purpose (2^60 attempts).
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitrail.shard.members import Members, Words, random_multipliers

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]

REST = np.dtype([("tail", "<u8"), ("id", "<u8"), ("place", "<i8")])
HEAD, KEPT, INLINE, WORD = 8, 16, 23, 8
# In place of the length of a longer string.
LONG = INLINE + 1
# No UTF-8 has such bytes: what stands for "an empty list" equals no string.
NOTHING = 0xFFFF_FFFF_FFFF_FFFF
# Where a record has what. The first one on a heap is `EMPTY` words of zeros, for all strings that need none.
DIGEST, LENGTH, TEXT = 0, 1, 2
EMPTY = TEXT + 1


class Strings(NamedTuple):
    """Strings by the n: heads uint64 [n], rests REST [n], and the heap that they share, uint64 words."""

    heads: Words
    rests: NDArray[np.void]
    heap: Words

    def part(self, begin: int, end: int) -> "Strings":
        """Those from begin up to end, without a copy."""
        return Strings(self.heads[begin:end], self.rests[begin:end], self.heap)

    def columns(self) -> tuple[Words, Words, Words, Places]:
        """Heads, tails, ids and places, each [n], without a copy."""
        return self.heads, self.rests["tail"], self.rests["id"], self.rests["place"]


class Text(NamedTuple):
    """One string to compare with, encoded as those in a column are."""

    data: bytes
    head: np.uint64
    tail: np.uint64
    id: np.uint64
    digest: np.uint64
    words: Words
    """What follows the first 16 bytes."""

    @classmethod
    def of(cls, text: str) -> "Text":
        encoded = encode([text])
        tail, id, place = encoded.rests[0].item()
        record = encoded.heap[place:]
        return cls(text.encode(), encoded.heads[0], np.uint64(tail), np.uint64(id), record[DIGEST], record[TEXT:-1])


def encode(texts: Sequence[str], base: int = 0) -> Strings:
    """Lay out n strings; their heap is to be appended to one that holds `base` words."""
    data = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, data), np.int64, len(data))
    words = np.array(data, "S24").view(">u8").reshape(-1, 3)
    heads = words[:, 0].astype(np.uint64)
    rests = np.zeros(len(data), REST)
    rests["tail"] = words[:, 1]
    ids = words[:, 2] & np.uint64(0xFFFF_FFFF_FFFF_FF00) | lengths.astype(np.uint64)
    pieces = [] if base else [bytes(EMPTY * WORD)]
    end = base or EMPTY
    known: dict[bytes, tuple[int, int]] = {}
    for row in np.flatnonzero(lengths > KEPT).tolist():
        string = data[row]
        if string not in known:
            digest = bytes(16) if len(string) <= INLINE else blake2b(string, digest_size=16).digest()
            known[string] = end, int.from_bytes(digest[:7])
            rest = string[KEPT:] + bytes(-len(string) % WORD + WORD)
            pieces += (digest[8:], len(string).to_bytes(WORD), rest)
            end += TEXT + len(rest) // WORD
        rests["place"][row], digest_bits = known[string]
        if len(string) > INLINE:
            ids[row] = digest_bits << 8 | LONG
    rests["id"] = ids
    return Strings(heads, rests, np.frombuffer(b"".join(pieces), ">u8").astype(np.uint64))


def copied(strings: Strings, chosen: Places, base: int) -> Strings:
    """The chosen ones, with a heap of their own to be appended to one that holds `base` words."""
    rests = np.zeros(len(chosen), REST)
    for field in REST.names or ():  # many times faster than all of them in one
        rests[field] = strings.rests[field][chosen]
    on_heap = np.flatnonzero(rests["place"])
    old, which = np.unique(rests["place"][on_heap], return_inverse=True)
    sizes = EMPTY + (strings.heap[old + LENGTH].astype(np.int64) - KEPT + WORD - 1) // WORD
    ends = np.cumsum(sizes)
    heap = strings.heap[np.repeat(old - (ends - sizes), sizes) + np.arange(sizes.sum())]
    rests["place"][on_heap] = ((base or EMPTY) + ends - sizes)[which]
    return Strings(strings.heads[chosen], rests, heap if base else np.concatenate([np.zeros(EMPTY, np.uint64), heap]))


def equal(strings: Strings, text: Text) -> Mask:
    """Which of the strings are this one."""
    heads, tails, ids, places = strings.columns()
    if len(text.data) > INLINE:  # their ids tell most of them apart, however long what they begin with is
        rows = np.flatnonzero(ids == text.id)
        rows = rows[np.flatnonzero(heads[rows] == text.head)]
        rows = rows[np.flatnonzero(tails[rows] == text.tail)]
        rows = rows[np.flatnonzero(strings.heap[places[rows] + DIGEST] == text.digest)]
    else:
        rows = np.flatnonzero(heads == text.head)
        rows = rows[np.flatnonzero(tails[rows] == text.tail)]
        rows = rows[np.flatnonzero(ids[rows] == text.id)]
    return _mask(len(heads), rows)


def compare(strings: Strings, text: Text) -> tuple[Mask, Mask]:
    """Which of the strings come before this one in the order of code points, and which are this one."""
    heads, tails, _, places = strings.columns()
    less: Mask = heads < text.head
    rows = np.flatnonzero(heads == text.head)
    rows = _ties(less, rows, tails[rows], text.tail)
    at, size = places[rows], len(rows)
    for number, word in enumerate(text.words):
        # A string that ended reads the zero at the end of its record, which comes before all words but zero.
        if not word:
            ended = _lengths(strings, rows) <= KEPT + number * WORD
            less[rows[np.flatnonzero(ended)]] = True
            rows = rows[np.flatnonzero(~ended)]
        if len(rows) != size:
            at, size = places[rows], len(rows)
        words = strings.heap[at + (TEXT + number)]
        rows = _ties(less, rows, words, word)
    lengths = _lengths(strings, rows)
    less[rows] = lengths < len(text.data)
    return less, _mask(len(heads), rows[np.flatnonzero(lengths == len(text.data))])


def begin_with(strings: Strings, prefix: Text) -> Mask:
    """Which of the strings begin with this one."""
    heads, tails, _, places = strings.columns()
    length = len(prefix.data)
    mask = _share(heads, prefix.head, length)
    if length > HEAD and mask.any():
        mask &= _share(tails, prefix.tail, length - HEAD)
    if length <= KEPT and not prefix.data.endswith(b"\0"):
        return mask
    rows = np.flatnonzero(mask)
    # The last word first: of strings that begin alike, few share it. A shorter one has no such word; what is read for
    # it may be anything, and its length tells.
    for number, word in reversed(list(enumerate(prefix.words))):
        read = strings.heap[np.minimum(places[rows] + (TEXT + number), len(strings.heap) - 1)]
        rows = rows[np.flatnonzero(_share(read, word, length - KEPT - number * WORD))]
    rows = rows[np.flatnonzero(_lengths(strings, rows) >= length)]
    return _mask(len(heads), rows)


class Texts:
    """Several strings to be found in one go."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = encode(sorted(set(texts)))
        self._multipliers = random_multipliers(3)
        self._keys = self._mix(self._texts)
        self._members = Members(self._keys)
        self._any_long = any(len(text.encode()) > INLINE for text in texts)

    def include(self, strings: Strings) -> Mask:
        """Which of the strings are one of these."""
        keys = self._mix(strings)
        mask = np.zeros(len(keys), np.bool_)
        for which in self._members.candidates(keys):
            rows = np.flatnonzero(self._keys[which] == keys)
            mask[rows] |= self._same(which[rows], strings, rows)
        return mask

    def _mix(self, strings: Strings) -> Words:
        head, tail, id = self._multipliers
        keys: Words = strings.heads * head
        keys += strings.rests["tail"] * tail
        keys += strings.rests["id"] * id
        return keys

    def _same(self, which: Places, strings: Strings, rows: Places) -> Mask:
        mine, theirs = self._texts, strings
        mask: Mask = mine.heads[which] == theirs.heads[rows]
        for field in ("tail", "id"):
            mask &= mine.rests[field][which] == theirs.rests[field][rows]
        if self._any_long:  # a string that is not on the heap has a digest there all the same: zero, at 0
            places = mine.rests["place"][which], theirs.rests["place"][rows]
            mask &= mine.heap[places[0] + DIGEST] == theirs.heap[places[1] + DIGEST]
        return mask


def _mask(count: int, rows: Places) -> Mask:
    """True at these rows of `count`."""
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return mask


def _ties(less: Mask, rows: Places, words: Words, word: np.uint64) -> Places:
    """Say of these rows, undecided up to now, whether their words are less; those whose words are the same remain."""
    same = words == word
    if same.all():
        return rows
    less[rows] = words < word
    return rows[np.flatnonzero(same)]


def _share(words: Words, word: np.uint64, count: int) -> Mask:
    """Which of the words begin with the same bytes as this one, `count` of them or all 8."""
    if count <= 0:
        return np.ones(len(words), np.bool_)
    shift = np.uint64(8 * max(0, WORD - count))
    same: Mask = words >> shift == word >> shift if shift else words == word
    return same


def _lengths(strings: Strings, rows: Places) -> Words:
    """How many bytes the strings of these rows have."""
    on_heap = strings.heap[strings.rests["place"][rows] + LENGTH]
    lengths: Words = np.maximum(on_heap, strings.rests["id"][rows] & np.uint64(0xFF))
    return lengths
