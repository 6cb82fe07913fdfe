"""The database under the store: SQLite in a directory, or PostgreSQL at a URL; opened, and brought to our schema.

What differs between the two is here and nowhere else.
"""

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from vitrail.rpc.errors import Unavailable

POSTGRESQL = ("postgresql://", "postgres://")
INSERTS: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
POOL = 8
CONNECT_SECONDS = 5
# A machine that is gone says nothing, and TCP would wait for hours: its connections fail after some ten seconds.
WHILE_CONNECTED = {
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
# Coordinators that start together create the tables together; all but one then find them there.
MIGRATION_TRIES = 5
MIGRATING = threading.Lock()  # what Alembic runs finds its context in global variables


class Database:
    """An engine, with the schema of this version from the first transaction on.

    Attributes:
        is_shared: Whether other processes may write to it.
    """

    def __init__(self, location: str) -> None:
        """Say where it is; it may be away.

        Args:
            location: A directory for SQLite, or a URL that begins with postgresql://.

        Raises:
            ValueError: The URL cannot be read.
            OSError: Another process has the directory open.
        """
        self.is_shared = location.startswith(POSTGRESQL)
        self._lock: IO[str] | None = None
        self._is_migrated = False
        self._engine = self._snapshots = _postgresql(location) if self.is_shared else self._sqlite(Path(location))
        if self.is_shared:  # SQLite has no other transactions
            self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction whose failures are the store's, not the caller's.

        Raises:
            Unavailable: It cannot be reached, is no database, was written by a newer version, or the transaction
                failed, and nothing was written.
        """
        self._migrate()
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A transaction that reads one moment, however many statements it takes."""
        self._migrate()
        with _translated(), self._snapshots.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def _sqlite(self, directory: Path) -> sa.Engine:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise OSError(f"another coordinator uses {directory}") from error
        engine = sa.create_engine(f"sqlite:///{directory / 'records.sqlite'}", pool_size=POOL)
        sa.event.listen(engine, "connect", _configure)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return engine

    def _migrate(self) -> None:
        if self._is_migrated:
            return
        for left in reversed(range(MIGRATION_TRIES)):
            try:
                with MIGRATING, _translated(), self._engine.begin() as connection:
                    _upgrade(connection)
                self._is_migrated = True
                return
            except Unavailable as error:
                if not left or not isinstance(error.__cause__, sa.exc.IntegrityError | sa.exc.ProgrammingError):
                    raise


def insert(connection: sa.Connection, table: sa.Table) -> Any:
    """The dialect's own INSERT, which can replace what is there."""
    return INSERTS[connection.dialect.name](table)


def _postgresql(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"the URL of the store cannot be read: {error}") from error
    # Pinged before use: a server that was started again has closed the connections that lie here.
    return sa.create_engine(
        parsed, pool_size=POOL, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS, **WHILE_CONNECTED}
    )


def _configure(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where sqlite3 guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "cache_size=-65536"):
        connection.execute(f"PRAGMA {pragma}")


def _upgrade(connection: sa.Connection) -> None:
    """Bring the schema to this version's, in the transaction of `connection`."""
    config = Config()
    config.set_main_option("script_location", "vitrail.server:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Unavailable(f"the store has a schema that this version does not know: {error}") from error


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise Unavailable(f"the store failed: {str(error.orig).strip()}") from error
