"""Coordinators that are killed while they write."""

import random
import threading
import time
from pathlib import Path

from tests.e2e.killing import held_by
from tests.e2e.parts import Parts, wait_serving
from tests.e2e.running import wait_applied
from tests.long.table import Row, seeds_from
from tests.long.writing import DIMENSION, NAME, Found, Writer
from vitrail.client import Client

SHARDS = 2
WRITERS = 4
LATEST = 0.5
"""Seconds of writing before the kill, at most."""


def killed(directory: Path, store: str, database: str, coordinators: int, seeds: range) -> Row:
    """Kill one again and again, at a random moment, while several callers write through each."""
    found, back = Found(), 0.0
    with Parts(directory, store, [SHARDS], coordinators=coordinators) as parts:
        for number in range(coordinators):
            parts.start_coordinator(number)
        parts.start_layout(SHARDS)
        addresses = [each.address for each in parts.coordinators]
        writers = [Writer(f"w{number}-", addresses[number % coordinators]) for number in range(WRITERS)]
        with Client(parts.address, timeout=60) as client:
            client.create_collection(NAME, dimension=DIMENSION)
            wait_serving(client, SHARDS)
            for seed in seeds:
                back = max(back, _kill(parts, writers, seed))
                found.add(_compared(client, writers))
    return Row(
        f"{database}: kill -9 of {'the' if coordinators == 1 else f'one of {coordinators}'} coordinator"
        f"{'s' * (coordinators > 1)} at a random moment, while {WRITERS} callers write",
        seeds_from(seeds),
        "no acknowledged record is lost, none that was refused appears, none is double; a call without an answer is"
        " there whole or not at all",
        f"{found}; answered again within {back:.1f} s",
        found.is_whole and found.acknowledged > len(seeds),
    )


def _kill(parts: Parts, writers: list[Writer], seed: int) -> float:
    """Kill one while all write, and start it again; returns the seconds until it answered."""
    chance, ended = random.Random(seed), threading.Event()
    threads = [threading.Thread(target=writer.run, args=(seed, ended)) for writer in writers]
    for thread in threads:
        thread.start()
    time.sleep(chance.uniform(0, LATEST))
    victim = chance.randrange(len(parts.coordinators))
    parts.coordinators[victim].end()
    start = time.monotonic()
    ended.set()
    for thread in threads:
        thread.join()
    parts.start_coordinator(victim)
    return time.monotonic() - start


def _compared(client: Client, writers: list[Writer]) -> Found:
    """What is there against what was acknowledged, and what shards hold against what is there."""
    wait_applied(client, NAME)
    records = list(client.list(NAME))
    there = {record.id: int(str(record.attributes["n"])) for record in records}
    held = [record_id for ids in held_by(client, NAME) for record_id in ids]
    found = Found(double=len(held) - len(set(held)) + len(records) - len(there), missing=len(set(held) ^ there.keys()))
    for writer in writers:
        found.add(writer.compare(dict(there)))
    return found
