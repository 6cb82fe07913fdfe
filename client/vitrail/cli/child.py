"""One process of a cluster: started, its log copied, started again when it dies, stopped."""

import asyncio
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitrail.rpc.process import child_environment

STOP_SECONDS = 20.0
RESTART_SECONDS = 1.0
LAST_LINES = 20


class Child:
    """One process, with its log."""

    def __init__(
        self, name: str, address: str, program: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.address = address
        self._program = program
        self._environment = environment
        self._log = log
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._copying: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def is_started(self) -> bool:
        return self._process is not None

    @property
    def exited(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def last_lines(self) -> str:
        return " | ".join(self._last) or "it said nothing"

    async def start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *self._program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=child_environment() | self._environment,
        )
        self._copying = asyncio.create_task(self._copy_log(self._process))

    async def wait(self) -> None:
        """Wait until it has ended and its log is written."""
        if self._process is not None and self._copying is not None:
            await self._process.wait()
            await self._copying

    def keep_alive(self) -> None:
        """From now on, start it again whenever it ends."""
        self._keeping = asyncio.create_task(self._keep_alive())

    def let_end(self) -> None:
        """From now on, do not start it again."""
        if self._keeping is not None:
            self._keeping.cancel()

    async def stop(self) -> None:
        """Ask it to end, and make it end when it takes too long."""
        if self._process is None or self.exited:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()

    async def _keep_alive(self) -> None:
        while True:
            await self.wait()
            code = self._process.returncode if self._process else None
            print(f"{self.name} ended with {code}; starting it again", file=sys.stderr, flush=True)
            await asyncio.sleep(RESTART_SECONDS)
            await self.start()

    async def _copy_log(self, process: asyncio.subprocess.Process) -> None:
        """Copy its standard error to the log file and to ours."""
        if process.stderr is None:
            return
        with self._log.open("ab") as file:
            while line := await process.stderr.readline():
                file.write(line)
                file.flush()
                self._last.append(line.decode(errors="replace").strip())
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
