"""What a shard is told when it starts, checked before anything runs. The environment is read here and nowhere else."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vitrail.rpc.logs import Format, Level
from vitrail.rpc.slots import slot_range


class Config(BaseSettings):
    """Each field can come from the environment, as VITRAIL_INDEX and so on."""

    model_config = SettingsConfigDict(env_prefix="VITRAIL_", frozen=True, extra="ignore")

    index: int = Field(ge=0)
    """Which shard this is, from 0."""
    count: int = Field(ge=1, le=1024)
    """How many shards there are."""
    log: str
    """Where the record log is served: a coordinator's host:port."""
    data: Path
    """Where partitions are kept. May be deleted at any time: they are built again from the log."""
    snapshots: str = ""
    """Where snapshots of partitions are written to, and started from where there is none here: a URL that fsspec
    knows, or a directory; of one store and no other. Empty: nowhere."""
    index_bytes: int = Field(default=0, ge=0)
    """What all trained indexes together may take in RAM; codes are shortened to fit. 0 for no limit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where trained indexes are searched: "auto" takes a GPU if there is one, "cuda" fails without."""
    host: str = "127.0.0.1"
    port: int = Field(default=50061, ge=0, le=65535)
    """0 takes a free one."""
    metrics_port: int = Field(default=9091, ge=0, le=65535)
    reuse_port: bool = False
    """Whether another socket may hold the same port (`vitrail up` reserves it so)."""
    settle_seconds: float = Field(default=0.0, ge=0)
    """How long calls are still answered once the process is told to end, until callers know that it wants none."""
    drain_seconds: float = Field(default=10.0, gt=0)
    log_level: Level = "info"
    log_format: Format = "console"
    """For people, or "json" for programs."""

    @model_validator(mode="after")
    def _index_below_count(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"shard {self.index} of {self.count}: the index must be below the count")
        return self

    @property
    def slots(self) -> tuple[int, int]:
        """The slots of this shard, from the first up to and without the second."""
        return slot_range(self.index, self.count)
