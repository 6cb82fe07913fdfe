"""What a coordinator is told when it starts, checked before anything runs. The environment is read here alone."""

import os
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vitrail.rpc.logs import Format, Level
from vitrail.server.discovery import DNS, FILE

DEFAULT_EMBEDDER = "efficientnet-lite0"


class Config(BaseSettings):
    """Each field can come from the environment, as VITRAIL_PORT and so on."""

    model_config = SettingsConfigDict(env_prefix="VITRAIL_", frozen=True, extra="ignore")

    store: str = Field(min_length=1, repr=False)
    """A directory for SQLite, or the URL of a PostgreSQL database: postgresql://user@host/name."""
    migrate: bool = True
    """Whether to bring the store's tables to this version; else it is waited until `vitrail migrate` has."""
    shards: Annotated[tuple[str, ...], NoDecode] = Field(min_length=1)
    """Where the shard processes are, replicas and other layouts included, in any order: each says which shard it is.
    HOST:PORT is one; dns:NAME:PORT those at all addresses that a name has, file:PATH those in the lines of a file, and
    both are looked at again and again. Separated by commas in the environment."""
    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535)
    """0 takes a free one."""
    metrics_port: int = Field(default=9090, ge=0, le=65535)
    reuse_port: bool = False
    """Whether another socket may hold the same port (`vitrail up` reserves it so)."""
    default_timeout: float = Field(default=30.0, gt=0)
    """Seconds for calls that bring no deadline."""
    settle_seconds: float = Field(default=0.0, ge=0)
    """How long calls are still answered once the process is told to end, until callers know that it wants none."""
    drain_seconds: float = Field(default=10.0, gt=0)
    connection_seconds: float = Field(default=300.0, ge=0)
    """After so long callers are asked to connect anew, so that those who came since get their share; 0 for never."""
    horizon_hours: float = Field(default=168.0, gt=0)
    """How long the store remembers what was deleted: a shard that was away for longer is built anew. To build one from
    nothing must take less."""

    embedders: Annotated[tuple[str, ...], NoDecode] = Field(default=(DEFAULT_EMBEDDER,), min_length=1)
    """What images and texts are embedded with, by name; the first is the default of new collections. Separated by
    commas in the environment."""
    threads: int = Field(default=os.cpu_count() or 1, ge=1)
    """For the embedder on a CPU, and as many again for decoding, which waits while the other computes."""
    embed_batch: int = Field(default=2, ge=1)
    """Images that a worker of the embedder takes at once. More is not faster on a CPU; set 64 or more on a GPU."""
    search_batch: int = Field(default=256, ge=1)
    """Queries that go to the shards at once."""
    queue: int = Field(default=4096, ge=1)
    """Images or queries that may wait; more are refused at once."""
    max_image_bytes: int = Field(default=32 * 1024 * 1024, ge=1)
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    log_level: Level = "info"
    log_format: Format = "console"
    """For people, or "json" for programs."""

    @field_validator("shards", "embedders", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("shards")
    @classmethod
    def _addresses(cls, shards: tuple[str, ...]) -> tuple[str, ...]:
        for shard in shards:
            host, _, port = shard.removeprefix(DNS).rpartition(":")
            if not shard.startswith(FILE) and (not host or not port.isdigit()):
                raise ValueError(f"{shard!r} is not HOST:PORT, dns:NAME:PORT or file:PATH")
        if len(set(shards)) != len(shards):
            raise ValueError("a shard is named twice")
        return shards

    @field_validator("embedders")
    @classmethod
    def _different(cls, embedders: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(embedders)) != len(embedders):
            raise ValueError("an embedder is named twice")
        return embedders
