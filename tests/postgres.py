"""A PostgreSQL of the tests' own, from a package."""

import signal
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psutil
import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # where there is no directory for sockets it takes one in /tmp, and says so
    from pgserver.postgres_server import PostgresServer


class Postgres:
    """A server in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._server = PostgresServer(directory)

    def new_database(self, like: str = "") -> str:
        """The URL of an empty database, or of a copy of one that nobody is connected to."""
        name, template = f"t{uuid.uuid4().hex}", urlsplit(like).path.strip("/") or "template1"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return str(self._server.get_uri(name))

    def kill(self) -> None:
        """As a power cut would, all of its processes with it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """At once: connections are closed."""
        self._end(signal.SIGINT)

    def start(self) -> None:
        """Again, where it was stopped or killed."""
        for name in (
            "postmaster.pid",
            ".s.PGSQL.5432.lock",
        ):  # it is dead, but may still be a zombie, which looks alive
            (self.directory / name).unlink(missing_ok=True)
        self._server.ensure_postgres_running()

    def suspend(self) -> None:
        """All of its processes stand still: connections stay open, and nothing answers."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        for process in self._processes():
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(self._server.get_postmaster_info().pid)
        return [main, *main.children(recursive=True)]

    def _end(self, how: signal.Signals) -> None:
        main, *others = self._processes()
        main.send_signal(how)
        for process in (main, *others):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)

    def cleanup(self) -> None:
        self._server.cleanup()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server that runs as long as the block."""
    with TemporaryDirectory(prefix="vitrail-postgres-") as directory:
        server = Postgres(Path(directory) / "data")
        try:
            yield server
        finally:
            server.cleanup()
