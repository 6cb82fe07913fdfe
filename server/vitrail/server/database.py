"""The database under the store: SQLite in a directory, or PostgreSQL at a URL; opened, and brought to our schema.

What differs between the two is here and nowhere else.
"""

import contextlib
import fcntl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.pq import Format
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from vitrail.rpc.errors import FailedPrecondition, Unavailable
from vitrail.server.migrations.oldest import read_oldest

POSTGRESQL = ("postgresql://", "postgres://")
INSERTS: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
POOL = 8
IDS_A_STATEMENT = 500
CONNECT_SECONDS = 5
# The longest that tables are waited for to write them anew, since everyone who comes later waits behind.
LOCK_SECONDS = 2
# Other sessions that may see rows that were deleted before now.
OLD_TRANSACTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND (datname = current_database() OR datname IS NULL)
    AND greatest(age(backend_xid), age(backend_xmin)) > age(pg_current_xact_id()::xid)
"""
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


class NotMigrated(Unavailable):
    """The tables are not yet of this version, and someone else is to bring them to it."""


class Database:
    """An engine, with the schema of this version from the first transaction on.

    Attributes:
        is_shared: Whether other processes may write to it.
    """

    def __init__(self, location: str, *, migrates: bool = True) -> None:
        """Say where it is; it may be away.

        Args:
            location: A directory for SQLite, or a URL that begins with postgresql://.
            migrates: Whether the first transaction brings tables to this version; else they must be.

        Raises:
            ValueError: The URL cannot be read, or is of another database.
            OSError: Another process has the directory open.
        """
        self.is_shared = location.startswith(POSTGRESQL)
        if not self.is_shared and "://" in location:  # no directory: its name would have the password in it
            raise ValueError(f"the store is a directory or postgresql://…, not {location.partition('://')[0]}://…")
        self._lock: IO[str] | None = None
        self._migrates = migrates
        self._is_migrated = False
        self._engine = self._snapshots = _postgresql(location) if self.is_shared else self._sqlite(Path(location))
        if self.is_shared:  # SQLite has no other transactions
            self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction whose failures are the store's, not the caller's.

        Raises:
            Unavailable: It cannot be reached, is no database, or the transaction failed, and nothing was written.
            NotMigrated: It is of an older version, and another process is to migrate it.
            FailedPrecondition: It is of a newer version that this one cannot use.
        """
        self.migrate()
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A transaction that reads one moment, however many statements it takes."""
        self.migrate()
        with _translated(), self._snapshots.begin() as connection:
            yield connection

    def rewrite(self) -> None:
        """Write every file anew, so that nothing is left in them of rows that are gone. Writers wait meanwhile.

        PostgreSQL keeps a write-ahead log and statistics beside the tables: the latter are made anew, too, where the
        user owns the database; the former is its own.

        Raises:
            Unavailable: Others may still read what is gone; or there is no room.
        """
        self.migrate()
        if self.is_shared:
            self._rewrite_postgresql()
        else:
            self._rewrite_sqlite()

    def _rewrite_sqlite(self) -> None:
        # Zeroed as they are deleted (secure_delete), rows leave copies behind where pages of an index were balanced.
        with _translated(), contextlib.closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            [(busy, *_)] = cursor.fetchall()
        if busy:
            raise Unavailable("the write-ahead log is being read", retry_after=1.0)

    def _rewrite_postgresql(self) -> None:
        engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        with _translated(), engine.connect() as connection:
            if connection.execute(sa.text(OLD_TRANSACTIONS)).scalar_one():  # VACUUM keeps what they may read
                raise Unavailable("a transaction that began before may still read what is gone", retry_after=1.0)
            connection.execute(sa.text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
            try:
                for statement in ("(FULL, ANALYZE) records", "(FULL, ANALYZE) images", "(FULL) pg_statistic"):
                    connection.execute(sa.text(f"VACUUM {statement}"))
            finally:
                connection.execute(sa.text("RESET lock_timeout"))

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

    def migrate(self) -> None:
        """Bring the tables to this version, or see that they are of one that can be used; once."""
        if self._is_migrated:
            return
        for left in reversed(range(MIGRATION_TRIES)):
            try:
                with MIGRATING, _translated(), self._engine.begin() as connection:
                    _upgrade(connection, migrates=self._migrates)
                self._is_migrated = True
                return
            except Unavailable as error:
                if not left or not isinstance(error.__cause__, sa.exc.IntegrityError | sa.exc.ProgrammingError):
                    raise


class BinaryCursor(psycopg.Cursor[Any]):
    """Has results sent as the bytes that they are: as text, a vector is twice as long."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.format = Format.BINARY


def insert(connection: sa.Connection, table: sa.Table) -> Any:
    """The dialect's own INSERT, which can replace what is there."""
    return INSERTS[connection.dialect.name](table)


def in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Some ids, as many at a time as a statement may well name."""
    return (ids[start : start + IDS_A_STATEMENT] for start in range(0, len(ids), IDS_A_STATEMENT))


def _postgresql(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):  # which may quote the password
        raise ValueError("the URL of the store cannot be read: postgresql://USER:PASSWORD@HOST:PORT/NAME") from None
    connect = {"connect_timeout": CONNECT_SECONDS, "cursor_factory": BinaryCursor, **WHILE_CONNECTED}
    # Pinged before use: a server that was started again has closed the connections that lie here.
    return sa.create_engine(parsed, pool_size=POOL, pool_pre_ping=True, connect_args=connect)


def _configure(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where sqlite3 guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "cache_size=-65536"):
        connection.execute(f"PRAGMA {pragma}")


def _upgrade(connection: sa.Connection, *, migrates: bool) -> None:
    """Bring the schema to this version's, in the transaction of `connection`; leave one that is newer.

    Migrations only add, so that processes of the version before go on with what the next one has made of the tables.

    Raises:
        NotMigrated: It is older, and not to be brought to this version here.
        FailedPrecondition: It is newer, and says that this version can no longer use it.
    """
    config = Config()
    config.set_main_option("script_location", "vitrail.server:migrations")
    config.attributes["connection"] = connection
    known = int(ScriptDirectory.from_config(config).get_current_head() or 0)
    found = int(MigrationContext.configure(connection).get_current_revision() or 0)
    if found > known:
        oldest = read_oldest(connection)
        if known < oldest:
            raise FailedPrecondition(
                f"the store has tables of version {found}, which only versions from {oldest} on can use; this one knows"
                f" those up to {known}: start a newer Vitrail"
            )
    elif found < known:
        if not migrates:
            raise NotMigrated(f"the store has tables of version {found}, not {known}: `vitrail migrate` is to run")
        command.upgrade(config, "head")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise Unavailable(f"the store failed: {str(error.orig).strip()}") from error
