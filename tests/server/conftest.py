from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.server.fakes import running
from vitrail.server.journal import Journal
from vitrail.server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
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
