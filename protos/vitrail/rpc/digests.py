"""Digests: whether two hold the same records, told without sending them.

A slot's digest is the sum of those of its live records, modulo 2^64, so that their order does not matter, and sums of
slots say the same in every layout. They find faults; who wants to could make other records of the same digest.
"""

import xxhash


def digest(record_id: bytes, seq: int, vector: bytes, attributes: bytes) -> int:
    """The digest of one record, as an unsigned 64-bit number.

    Each part seeds the hash of the next, so that no byte can pass from one to another unnoticed.

    Args:
        record_id: Its id in UTF-8.
        seq: Its place in the log.
        vector: Its vector as the log carries it.
        attributes: A serialized Attributes, as the log carries it.
    """
    return xxhash.xxh3_64_intdigest(
        attributes, xxhash.xxh3_64_intdigest(record_id, xxhash.xxh3_64_intdigest(vector, seq))
    )
