from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres, running_postgres
from tests.server.fakes import running
from vitrail.server.database import Database
from vitrail.server.journal import Journal
from vitrail.server.store import Store


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store is made: everything that uses it is run on both databases."""
    if request.param == "sqlite":
        return str(tmp_path)
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    store = Store(Database(location))
    yield store
    store.close()


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    """The way to `store`, with the task that writes."""
    journal = Journal(store)
    await journal.load_catalog()
    async with running(journal.batcher):
        yield journal
    journal.close()
