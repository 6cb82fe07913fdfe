"""Tables of another version than the process's: brought to it, waited for, or gone on with."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from tests.postgres import Postgres
from vitrail.rpc.errors import FailedPrecondition
from vitrail.rpc.slots import SLOTS
from vitrail.server.database import Database, NotMigrated
from vitrail.server.migrations import oldest
from vitrail.server.store import Store
from vitrail.server.writing import NewRecord, Write
from vitrail.v1.collection_pb2 import Collection


class Place(NamedTuple):
    """A store, and the same for SQL alone."""

    location: str
    engine: sa.Engine

    def to(self, version: str) -> None:
        """Bring its tables to a version of before, from nothing."""
        config = Config()
        config.set_main_option("script_location", "vitrail.server:migrations")
        with self.engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, version)

    def becomes_newer(self) -> None:
        """Do what the migration of a later version may: add a column that who does not know it need not fill."""
        with self.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE records ADD COLUMN mood TEXT NOT NULL DEFAULT 'fine'"))
            connection.execute(sa.text("CREATE TABLE moods (name TEXT PRIMARY KEY)"))
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    def opened(self, *, migrates: bool = True) -> "closing[Store]":
        return closing(Store(Database(self.location, migrates=migrates)))


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Iterator[Place]:
    location, url = str(tmp_path), f"sqlite:///{tmp_path / 'records.sqlite'}"
    if request.param == "postgresql":
        location = url = postgres.new_database()
    engine = sa.create_engine(sa.make_url(url).set(drivername=f"{request.param}{'+psycopg' * ('post' in url)}"))
    yield Place(location, engine)
    engine.dispose()


def use(store: Store) -> None:
    """Write and read of everything that there is."""
    uid = store.create_collection(Collection(name="c", dimension=2)).uid
    store.write([Write(uid, [NewRecord("a", {}, vector=b"12345678")], [])])
    page = store.page(uid, (0, SLOTS), 0, 10)
    assert page is not None
    assert [row.id for row in page.rows] == ["a"]


@pytest.mark.parametrize("version", ["", "0001", "0003"])
def test_who_does_not_migrate_waits_for_who_does(place: Place, version: str) -> None:
    """Tables that are not there or older are refused by name and left alone, and used once someone has migrated."""
    if version:
        place.to(version)
    before = sa.inspect(place.engine).get_table_names()
    with place.opened(migrates=False) as store, pytest.raises(NotMigrated, match="vitrail migrate"):
        store.heads()
    assert sa.inspect(place.engine).get_table_names() == before
    with closing(Database(place.location)) as database:
        database.migrate()
    with place.opened(migrates=False) as store:
        use(store)


def test_a_process_of_before_goes_on_with_what_the_next_version_has_added(place: Place) -> None:
    """A rolling update mixes versions: whether it was there before the migration or comes after it."""
    with place.opened() as store:
        store.heads()
        place.becomes_newer()
        use(store)
    with place.opened() as store:
        store.delete_collection(1)
        use(store)
    with place.engine.begin() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_store_that_only_newer_ones_can_use(place: Place) -> None:
    """Where a migration had to say so, it is refused with the version that is needed: no waiting would heal that."""
    with place.opened() as store:
        store.heads()
    place.becomes_newer()
    with place.engine.begin() as connection:
        oldest.require(connection, 17)
        oldest.require(connection, 9998)
    for migrates in (True, False):
        with place.opened(migrates=migrates) as store, pytest.raises(FailedPrecondition, match="from 9998 on"):
            store.heads()


def taken_away(before: sa.MetaData, after: sa.MetaData) -> list[str]:
    """What processes that know the tables of before would miss."""
    missing = [f"table {name}" for name in before.tables if name not in after.tables]
    for name, table in after.tables.items():
        if name not in before.tables:
            continue
        then, now = ({each.name: each for each in of.columns} for of in (before.tables[name], table))
        changed = [each for each in then if each not in now or str(now[each].type) != str(then[each].type)]
        missing += [f"column {name}.{each}" for each in changed]
        new = [each for each in now if each not in then and not (now[each].nullable or now[each].server_default)]
        missing += [f"a default of {name}.{each}" for each in new]
    return missing


def test_migrations_only_add(place: Place) -> None:
    """Each leaves what the version before it knows, or says that this version cannot go on (`oldest.require`)."""
    tables = sa.MetaData()
    config = Config()
    config.set_main_option("script_location", "vitrail.server:migrations")
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    assert revisions[0] == "0001"
    for revision in revisions:
        before, tables = tables, sa.MetaData()
        place.to(revision)
        tables.reflect(place.engine)
        with place.engine.connect() as connection:
            if oldest.read_oldest(connection) < int(revision):
                assert taken_away(before, tables) == [], revision


def test_what_counts_as_taken_away() -> None:
    """A table, a column, its type; and a new column that has to be filled."""
    before, after = sa.MetaData(), sa.MetaData()
    sa.Table("gone", before, sa.Column("a", sa.Text))
    sa.Table("kept", before, sa.Column("a", sa.Text), sa.Column("b", sa.Text), sa.Column("c", sa.Text))
    sa.Table("new", after, sa.Column("a", sa.Text))
    sa.Table(
        "kept",
        after,
        sa.Column("a", sa.Text),
        sa.Column("b", sa.Integer),
        sa.Column("d", sa.Text, nullable=False),
        sa.Column("e", sa.Text, nullable=False, server_default=""),
        sa.Column("f", sa.Text),
    )
    assert taken_away(before, after) == ["table gone", "column kept.b", "column kept.c", "a default of kept.d"]
