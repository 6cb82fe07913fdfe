"""The tables of the record store, as the last of `migrations` leaves them."""

import sqlalchemy as sa

metadata = sa.MetaData()

collections = sa.Table(
    "collections",
    metadata,
    sa.Column("uid", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # unique with the name
    sa.Column("definition", sa.LargeBinary, nullable=False),  # a serialized Collection
    sa.Column("seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("mark", sa.BigInteger, nullable=False, default=0),
    sa.Column("records", sa.BigInteger, nullable=False, default=0),
    sa.Column("purged", sa.BigInteger, nullable=False, default=0),  # every tombstone up to here is gone
    # Of what was replaced or deleted up to here nothing is left in the database's files.
    sa.Column("clean", sa.BigInteger, nullable=False, default=0),
)
names = sa.Table(
    "names",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("serves", sa.Integer, nullable=False),  # the uid of the version that bears the name alone
    sa.Column("versions", sa.Integer, nullable=False),  # how many were ever made
)
catalog = sa.Table("catalog", metadata, sa.Column("seq", sa.BigInteger, nullable=False))
layout = sa.Table("layout", metadata, sa.Column("shards", sa.Integer, nullable=False))  # 0 where nobody said
commits = sa.Table(
    "commits",
    metadata,
    sa.Column("collection_uid", sa.Integer, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("mark", sa.BigInteger, nullable=False),
    sa.Column("committed_at", sa.BigInteger, nullable=False),  # microseconds since 1970
)
records = sa.Table(
    "records",
    metadata,
    sa.Column("collection_uid", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),  # microseconds since 1970
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("attributes", sa.LargeBinary, nullable=False),  # a serialized Attributes
    sa.Column("content_hash", sa.LargeBinary, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # float16 or float32, little-endian; empty: see `PENDING`
    sa.Column("thumbnail", sa.LargeBinary, nullable=False),  # last: a reader of vectors never loads it
)
# Of a live record whose vector is still to be made in this version's space. As the index `records_pending` has it.
PENDING = sa.text("NOT deleted AND length(vector) = 0")
images = sa.Table(
    "images",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # of the collection, whose versions share them
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
