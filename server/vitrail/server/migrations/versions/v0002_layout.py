"""How many shards are to serve."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    layout = op.create_table("layout", sa.Column("shards", sa.Integer, nullable=False))
    op.bulk_insert(layout, [{"shards": 0}])
