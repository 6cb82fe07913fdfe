"""The shard: follows the record log for its slots, and searches the partitions that it derives from it."""
