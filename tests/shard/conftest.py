from tests.shard.test_follow import world

__all__ = ["world"]
