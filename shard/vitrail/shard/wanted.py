"""What of a partition should be built anew: its index, its table, or both. Decides, and touches nothing."""

from dataclasses import dataclass

from vitrail.shard.index import ID_BYTES, Choices, choose_recipe
from vitrail.shard.manifest import TrainedFile
from vitrail.shard.partition import Partition

RETRAIN_GROWTH = 4
# Dead rows are left behind once there are so many, and they are this share of all.
COMPACT_ROWS, COMPACT_SHARE = 1024, 0.25
# Trained anew where the same recall has come to cost so many times what it did, with so many queries seen.
DRIFT_COST, DRIFT_SAMPLES = 2.0, 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be built, and why."""

    train: bool
    compact: bool
    choices: Choices
    why: str


def wanted_build(partition: Partition, bytes_a_record: float = 0.0) -> Wanted | None:
    """What should be built now, if anything.

    Args:
        partition: Is looked at.
        bytes_a_record: What a trained index may take in RAM for each record; 0 for no limit.
    """
    if partition.unverified is not None:  # what is damaged must not be copied
        return None
    if 2 * partition.reached < partition.head:  # most of the log is still to come: it would soon outgrow an index
        return None
    options = partition.collection.index
    choices = Choices(
        components=options.components,
        lists=options.lists,
        code_bytes=options.code_bytes,
        bits=options.bits,
        bytes_a_record=bytes_a_record,
        for_gpu=partition.device is not None,
    )
    why = _why_train(partition, choices)
    rows = partition.view.rows
    compact = partition.dead >= COMPACT_ROWS and partition.dead >= COMPACT_SHARE * rows
    compact |= partition.wants_cleaning and not partition.is_clean
    if not why and not compact:
        return None
    return Wanted(bool(why), compact, choices, why or f"{partition.dead:,} of {rows:,} rows are dead")


def _why_train(partition: Partition, choices: Choices) -> str:
    """Why an index should be trained, or nothing."""
    records, trained = partition.view.records, partition.trained
    if records < partition.collection.train_at:
        return ""
    if trained is None:
        return f"{records:,} records are enough to train on"
    if records >= RETRAIN_GROWTH * trained.trained_on:
        return f"{records:,} records have outgrown an index trained on {trained.trained_on:,}"
    if choices.of_collection() != trained.choices:
        return "the collection asks for another index"
    recipe = choose_recipe(records, partition.dimension, choices)
    if choices.for_gpu and recipe.fits_gpu and not trained.recipe.fits_gpu:
        return "the shard has a GPU, which cannot search this index"
    if (
        0 < choices.bytes_a_record < trained.recipe.code_bytes + ID_BYTES
        and recipe.code_bytes < trained.recipe.code_bytes
    ):
        return f"codes of {trained.recipe.code_bytes} bytes are more than the memory budget allows"
    return _drift(partition, trained)


def _drift(partition: Partition, trained: TrainedFile) -> str:
    """Why the index no longer fits what it holds, or nothing."""
    curve, target = partition.curve, partition.target
    if curve is None or curve.real_samples < DRIFT_SAMPLES or partition.changes < trained.trained_on / 10:
        return ""
    now, then = curve.cheapest(target), trained.curve.cheapest(target)
    if now.recall < target <= then.recall:
        return f"recall has fallen from {then.recall:.3f} to {now.recall:.3f}"
    if now.seconds > DRIFT_COST * then.seconds:
        return f"the same recall costs {now.seconds / then.seconds:.1f} times what it did"
    return ""
