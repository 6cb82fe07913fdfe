"""Versions of a collection under one name, one of which serves it; records that wait for their vector; kept images."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# SQLite does not keep the names of constraints that were given none; PostgreSQL names them so.
NAMING = {"uq": "%(table_name)s_%(column_0_name)s_key"}
PENDING = sa.text("NOT deleted AND length(vector) = 0")


def upgrade() -> None:
    id_type = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # SQLite changes a constraint by making the table anew, which would forget the uids of collections that are gone.
    uids = "SELECT seq FROM sqlite_sequence WHERE name = 'collections'"
    given_out = op.get_bind().execute(sa.text(uids)).scalar() if is_sqlite else None
    with op.batch_alter_table(
        "collections", naming_convention=NAMING, table_kwargs={"sqlite_autoincrement": True}
    ) as batch:
        batch.add_column(sa.Column("version", sa.Integer, nullable=False, server_default="1"))
        batch.drop_constraint("collections_name_key", type_="unique")
        batch.create_unique_constraint("collections_by_name", ["name", "version"])
    if given_out is not None:
        op.execute("DELETE FROM sqlite_sequence WHERE name = 'collections'")
        op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('collections', {given_out:d})")
    op.create_table(
        "names",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("serves", sa.Integer, nullable=False),
        sa.Column("versions", sa.Integer, nullable=False),
    )
    op.execute("INSERT INTO names (name, serves, versions) SELECT name, uid, 1 FROM collections")
    op.create_index(
        "records_pending", "records", ["collection_uid", "id"], sqlite_where=PENDING, postgresql_where=PENDING
    )
    op.create_table(
        "images",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("id", id_type, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    if not is_sqlite:
        op.execute("ALTER TABLE images ALTER COLUMN data SET STORAGE EXTERNAL")
