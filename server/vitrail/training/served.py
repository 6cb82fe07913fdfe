"""How well a running cluster finds: exactly, as well as its model can, and as it serves, less what its index costs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np

from vitrail.client import Client, FileError, Hit, Query, SearchResult
from vitrail.client.progress import bar
from vitrail.training.evaluation import Evaluation, Run, check_labels, left_out, read_photo
from vitrail.training.measures import Ints, measure
from vitrail.training.pairs import Pairs
from vitrail.training.photos import Photo, Photos
from vitrail.training.ranking import SHOWN, PerQuery
from vitrail.training.summary import MEASURES

AT_ONCE = 100
MOST = 1000
"""Records that are searched with, taken at random where there are more."""
MOST_HITS = 1000
"""That a search gives."""
AGREEING = 10
RUNS = {"exact": True, "as served": False}


class Asked(NamedTuple):
    """What is to be evaluated."""

    collection: str
    attribute: str = "category"
    """The label of a record."""
    top_k: int = 100
    """So many of each ranking are asked for."""


def served(
    client: Client,
    asked: Asked,
    picture: Callable[[str], bytes | None],
    photos: Photos | None = None,
    pairs: Pairs | None = None,
    *,
    progress: bool = False,
) -> Evaluation:
    """Search a collection with its records, or with photos, exactly and as it serves.

    Args:
        client: Connected to the cluster.
        asked: What is to be evaluated.
        picture: Gives the picture of a record, where it can be had.
        photos: What to search with, instead of records; one never finds the record of its id.
        pairs: What is relevant, instead of what has the same label.
        progress: Draw bars on standard error.

    Raises:
        InvalidArgument: No figure would say anything: says why.
        Unavailable: Not all of the collection can be searched.
    """
    records = [
        Photo(record.id, str(record.attributes.get(asked.attribute, "")))
        for record in client.list(asked.collection)
        if not record.pending
    ]
    queries = _queries(records, photos, pairs)
    if pairs is None:
        check_labels(photo.label for photo in records)
    else:
        pairs.check({photo.id for photo in (*records, *queries)})
    answers: dict[str, dict[Photo, Sequence[Hit]]] = {}
    failed: dict[str, FileError] = {}
    for name, exact in RUNS.items():
        answers[name] = {}
        with bar(f"searching, {name}", len(queries), shown=progress) as show:
            for done, (photo, hits) in enumerate(_search(client, asked, queries, photos, exact), 1):
                if isinstance(hits, FileError):
                    failed[photo.id] = hits
                else:
                    answers[name][photo] = hits
                show(done)
    answered = [photo for photo in queries if photo.id not in failed]
    relevant = _relevant(answered, records, pairs)
    runs = [
        Run(name, _found(answered, records, [found[photo] for photo in answered], relevant))
        for name, found in answers.items()
    ]
    known = {photo.id for photo in records}

    def read(photo: Photo) -> bytes | None:
        return read_photo(photos.source, photo) if photos and photo.id not in known else picture(photo.id)

    return Evaluation(
        runs,
        client.get_collection(asked.collection).metric,
        [each for each in MEASURES if int(each.partition("@")[2].replace("R", "") or 1) <= asked.top_k],
        asked.top_k,
        [*left_out(runs[0].found), *_notes(asked, *answers.values())],
        [*failed.values()],
        read,
    )


def _queries(records: Sequence[Photo], photos: Photos | None, pairs: Pairs | None) -> Sequence[Photo]:
    possible = photos.all if photos else records
    if pairs is not None:
        return [photo for photo in possible if photo.id in pairs.relevant]
    labelled = [photo for photo in possible if photo.label]
    if photos or len(labelled) <= MOST:
        return labelled
    return [labelled[place] for place in sorted(np.random.default_rng(0).choice(len(labelled), MOST, replace=False))]


def _search(
    client: Client, asked: Asked, queries: Sequence[Photo], photos: Photos | None, exact: bool
) -> Iterator[tuple[Photo, Sequence[Hit] | FileError]]:
    """The first hits of each query that are not the query itself."""
    top_k = min(MOST_HITS, asked.top_k + 1) if photos else asked.top_k
    for start in range(0, len(queries), AT_ONCE):
        some = queries[start : start + AT_ONCE]
        asking: dict[Photo, Query] = {}
        for photo in some:
            try:
                asking[photo] = Query(image=photos.source.read(photo.id)) if photos else Query(like=photo.id)
            except OSError as error:
                yield photo, FileError(photo.id, str(error))
        found = client.search_batch(
            asked.collection, asking.values(), top_k=top_k, exact=exact, min_coverage=1, include=()
        )
        for photo, result in zip(asking, found, strict=True):
            if isinstance(result, SearchResult):
                yield photo, [hit for hit in result.hits if hit.id != photo.id][: asked.top_k]
            else:
                yield photo, FileError(photo.id, result.message)


def _relevant(queries: Sequence[Photo], records: Sequence[Photo], pairs: Pairs | None) -> Sequence[AbstractSet[str]]:
    """Ids of records; those of the query itself may be among them."""
    if pairs is not None:
        known = {photo.id for photo in records}
        return [known.intersection(pairs.relevant[photo.id]) for photo in queries]
    of_label: dict[str, set[str]] = {}
    for photo in records:
        of_label.setdefault(photo.label, set()).add(photo.id)
    return [of_label.get(photo.label, set()) for photo in queries]


def _found(
    queries: Sequence[Photo],
    records: Sequence[Photo],
    answers: Sequence[Sequence[Hit]],
    relevant: Sequence[AbstractSet[str]],
) -> PerQuery:
    places = {photo.id: place for place, photo in enumerate(records)}
    # A record that was written after the others were listed is not known, and is no part of a ranking.
    known = [[hit for hit in hits if hit.id in places] for hits in answers]
    ranks: list[Ints] = [
        np.array([rank for rank, hit in enumerate(hits, 1) if hit.id in wanted], np.int64)
        for hits, wanted in zip(known, relevant, strict=True)
    ]
    counts = np.array([len(wanted - {photo.id}) for photo, wanted in zip(queries, relevant, strict=True)], np.int64)
    shown = min([SHOWN, *map(len, known)])
    top = np.array([[places[hit.id] for hit in hits[:shown]] for hits in known], np.int64)
    scores = np.array([[hit.score for hit in hits[:shown]] for hits in known], np.float32)
    shape = len(queries), shown
    return PerQuery(queries, records, measure(ranks, counts), top.reshape(shape), scores.reshape(shape))


def _notes(asked: Asked, exact: Mapping[Photo, Sequence[Hit]], served: Mapping[Photo, Sequence[Hit]]) -> list[str]:
    first = min(AGREEING, asked.top_k)
    shares = []
    for photo in exact.keys() & served.keys():
        best, found = ({hit.id for hit in hits[photo][:first]} for hits in (exact, served))
        shares += [len(best & found) / len(best)] if best else []
    share = f"{np.mean(shares):.4f}" if shares else "none"
    return [
        f"{share} of the first {first} of an exact search are found as it serves: what the index costs",
        f"rankings are known up to {asked.top_k:,}: what is relevant beyond counts as not found",
    ]
