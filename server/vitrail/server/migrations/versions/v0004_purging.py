"""Up to where tombstones are gone, and all that was deleted; when each transaction was, and a way to the tombstones."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("collections", sa.Column("purged", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("collections", sa.Column("clean", sa.BigInteger, nullable=False, server_default="0"))
    now = str(time.time_ns() // 1000)  # of those before nothing is known: they count as made now
    op.add_column("commits", sa.Column("committed_at", sa.BigInteger, nullable=False, server_default=now))
    op.create_index(
        "tombstones",
        "records",
        ["collection_uid", "seq"],
        sqlite_where=sa.text("deleted = 1"),
        postgresql_where=sa.text("deleted"),
    )
