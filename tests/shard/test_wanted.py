"""What of a partition should be built, and when."""

from pathlib import Path

from tests.shard.rows import clustered, collection, upsert
from vitrail.rpc.slots import SLOTS
from vitrail.shard.partition import Partition
from vitrail.shard.wanted import wanted_build


def test_nothing_is_trained_while_most_of_the_log_is_still_to_come(tmp_path: Path) -> None:
    """What is soon outgrown would be trained twice; from half of the log on it lasts."""
    partition = Partition(tmp_path / "p", collection(8, train_at=50), (0, SLOTS))
    partition.apply([upsert(f"r{row}", vector, row + 1) for row, vector in enumerate(clustered(100, 8))])
    partition.head = 201
    assert wanted_build(partition) is None
    partition.head = 200
    wanted = wanted_build(partition)
    assert wanted is not None
    assert wanted.train
