"""Collections, their records, and the marks of transactions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("records"):
        return  # written before there were migrations, by SQLite's version 1 of these tables
    id_type = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # ordered by bytes, as everywhere
    op.create_table(
        "collections",
        sa.Column("uid", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("definition", sa.LargeBinary, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("mark", sa.BigInteger, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,  # a uid is never given out twice
    )
    catalog = op.create_table("catalog", sa.Column("seq", sa.BigInteger, nullable=False))
    op.bulk_insert(catalog, [{"seq": 0}])
    op.create_table(
        "commits",
        sa.Column("collection_uid", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("mark", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "records",
        sa.Column("collection_uid", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", id_type, primary_key=True),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("attributes", sa.LargeBinary, nullable=False),
        sa.Column("content_hash", sa.LargeBinary, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("thumbnail", sa.LargeBinary, nullable=False),
        sa.Index("records_by_seq", "collection_uid", "seq", "slot"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for column in ("vector", "thumbnail"):  # apart from their row, and not compressed: neither would shrink
            op.execute(f"ALTER TABLE records ALTER COLUMN {column} SET STORAGE EXTERNAL")
