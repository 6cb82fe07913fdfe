"""The oldest version of the tables whose processes can use them as they are now.

Migrations only add: tables, indexes, columns that older processes need not fill. So a rolling update mixes versions,
and nothing is recorded. One that cannot be so calls `require` with its own number.
"""

import sqlalchemy as sa

TABLE = sa.Table("oldest", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False))


def require(connection: sa.Connection, version: int) -> None:
    """Have processes refuse the store that know no tables of this version."""
    TABLE.create(connection, checkfirst=True)
    connection.execute(TABLE.delete())
    connection.execute(TABLE.insert().values(version=version))


def read_oldest(connection: sa.Connection) -> int:
    """The version from which on the tables can be used; 0 where none was required."""
    if not sa.inspect(connection).has_table(TABLE.name):
        return 0
    return connection.execute(sa.select(sa.func.max(TABLE.c.version))).scalar() or 0
