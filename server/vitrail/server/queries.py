"""What a query looks for, as a vector: from an image, a vector, a record, or examples."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitrail.rpc.deadline import Deadline
from vitrail.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from vitrail.server import validate
from vitrail.server.embedding import Pipelines
from vitrail.server.journal import Journal
from vitrail.v1.collection_pb2 import Collection
from vitrail.v1.search_pb2 import Example, Examples, Query, TextMethod
from vitrail.v1.types_pb2 import Metric

# Weights of liked and disliked examples in Rocchio's formula: Manning, Raghavan and Schütze, Introduction to
# Information Retrieval (2008), section 9.1.1. Its third weight is that of an original query, which there is none of.
BETA, GAMMA = 0.75, 0.15


@dataclass(slots=True)
class Target:
    """A vector float32 [d], of length 1 for cosine; records that are no hits; seconds of each step."""

    vector: NDArray[np.float32]
    left_out: frozenset[str] = frozenset()
    decode: float = 0.0
    embed_wait: float = 0.0
    embed: float = 0.0
    text_method: "TextMethod.ValueType" = TextMethod.TEXT_METHOD_UNSPECIFIED


class Queries:
    """Turns queries into vectors."""

    def __init__(self, pipelines: Pipelines, journal: Journal) -> None:
        self._pipelines = pipelines
        self._journal = journal

    async def resolve(self, query: Query, collection: Collection, deadline: Deadline, field: str) -> Target:
        """The vector of a query; `field` is where it stands in the request, empty where it is an item of its own.

        Raises:
            InvalidArgument: It is empty, or what it names cannot be used; with the field.
            NotFound: It names a record that does not exist.
            FailedPrecondition: It is an image, and the collection's vectors are not made from images here; or a
                record whose own is pending.
        """
        kind = query.WhichOneof("kind")
        if kind is None:
            raise InvalidArgument("give one of image, text, vector, record_id and examples", field=field)
        if kind == "examples":
            target = await self._rocchio(query.examples, collection, deadline, _at(field, "examples"))
        elif kind == "text":
            target = await self._text(query.text, collection, deadline, _at(field, "text"))
        else:
            target = await self._one(query, collection, deadline, field)
        if collection.metric == Metric.METRIC_COSINE:
            target.vector = _unit(target.vector, field)
        return target

    async def _one(self, given: Query | Example, collection: Collection, deadline: Deadline, field: str) -> Target:
        match given.WhichOneof("kind"):
            case "image":
                pipeline = self._pipelines.of(collection)
                found = await pipeline.embed(given.image, deadline, field=_at(field, "image"))
                return Target(found.vector, frozenset(), found.decode, found.wait, found.embed)
            case "vector":
                return Target(validate.vector(given.vector, collection, _at(field, "vector")))
            case "record_id":
                return await self._record(given.record_id, collection, _at(field, "record_id"))
            case _:
                raise InvalidArgument("give one of image, vector and record_id", field=field)

    async def _text(self, text: str, collection: Collection, deadline: Deadline, field: str) -> Target:
        validate.text(text, field)
        start = time.monotonic()
        vector, method = await self._pipelines.of(collection).embed_text(text, deadline, field=field)
        return Target(vector, embed=time.monotonic() - start, text_method=method)

    async def _record(self, record_id: str, collection: Collection, field: str) -> Target:
        found = await self._journal.read(self._journal.store.get, collection.uid, [record_id], thumbnails=False)
        if record_id not in found:
            raise NotFound(f"there is no record {record_id!r}", field=field)
        if found[record_id].pending:
            raise FailedPrecondition(f"the vector of {record_id!r} is still to be made", field=field)
        return Target(stored_vector(found[record_id].vector, collection.dimension), frozenset([record_id]))

    async def _rocchio(self, examples: Examples, collection: Collection, deadline: Deadline, field: str) -> Target:
        if not examples.liked:
            raise InvalidArgument("give at least one", field=f"{field}.liked")
        validate.examples(len(examples.liked) + len(examples.disliked), field)
        liked = await self._all(examples.liked, collection, deadline, f"{field}.liked")
        disliked = await self._all(examples.disliked, collection, deadline, f"{field}.disliked")
        vector = np.float32(BETA) * _mean(liked, collection)
        if disliked:
            vector -= np.float32(GAMMA) * _mean(disliked, collection)
        targets = [*liked, *disliked]
        return Target(
            vector,
            frozenset().union(*(target.left_out for target in targets)),
            max(target.decode for target in targets),
            max(target.embed_wait for target in targets),
            max(target.embed for target in targets),
        )

    async def _all(
        self, examples: Sequence[Example], collection: Collection, deadline: Deadline, field: str
    ) -> list[Target]:
        return await asyncio.gather(
            *(self._one(example, collection, deadline, f"{field}[{index}]") for index, example in enumerate(examples))
        )


def _at(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def stored_vector(data: bytes, dimension: int) -> NDArray[np.float32]:
    """A vector of the store, float32 [d]: it is kept in float16 or float32, as its length tells."""
    kind = "<f2" if len(data) == 2 * dimension else "<f4"
    return np.frombuffer(data, kind).astype(np.float32)


def _mean(targets: Sequence[Target], collection: Collection) -> NDArray[np.float32]:
    rows = np.stack([target.vector for target in targets])
    if collection.metric == Metric.METRIC_COSINE:
        rows = validate.unit(rows)
    mean: NDArray[np.float32] = rows.mean(axis=0)
    return mean


def _unit(vector: NDArray[np.float32], field: str) -> NDArray[np.float32]:
    if not vector.any():
        raise InvalidArgument("the examples cancel each other", field=field)
    return validate.unit_vector(vector)
