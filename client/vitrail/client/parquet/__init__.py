"""A collection as one Parquet file, for backup, for moving, and for whoever wants to look at it with pandas or DuckDB.

    id              string
    vector          list of d float32, as the server gave it, bit for bit
    attributes      struct: one field an attribute, null where a record lacks it; there is none without attributes
    uri             string, or null
    content_hash    32 bytes, or null
    thumbnail       a JPEG, or null
    update_time     timestamp, when the record was last written
    seq             int64, its place in the log of the collection that it was exported from

The file's metadata has the collection's definition under `vitrail.collection`, as protobuf's JSON. Timestamps are in
microseconds, as filters compare them, and an integer in an attribute of floats is a float here, too. `update_time` and
`seq` are for readers: importing gives new ones.

Records are read page by page while others may write: each is as it was when its page was read, and one that is written
or deleted meanwhile may or may not be in the file. For all records at one point in time, back up the database.
"""
