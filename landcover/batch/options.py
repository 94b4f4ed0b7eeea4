"""What a batch is asked to do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landcover.batch.jobs import device_of
from landcover.errors import ConfigError
from landcover.outputs import check_here


@dataclass(frozen=True)
class BatchOptions:
    """How the scenes of a catalog are to be mapped.

    Attributes:
        catalog: a folder, a glob, a CSV, Parquet or STAC file, or one scene; see `landcover.catalog.read_catalog`.
        out: the folder for the outputs.
        model: as for `predict`.
        mapping: other attributes of `landcover.planning.Options`; `sensor`, `bands`, `scale` and `offset` hold for
            scenes of which the catalog does not say them.
        confidence: write the confidence of each map too.
        vectors: options of `landcover.vectorize` for polygons of each map; None for none. With
            `confidence` they tell its mean.
        suffix: of the polygons.
        choose: arguments of `landcover.catalog.choose`.
        workers: on this machine; None for a good number.
        scheduler: address or file of a running Dask scheduler, in place of workers on this machine.
        part_rows: rows of windows in a part of a large scene; None for a good number, 0 to cut no scene.
        retries: how often a scene that fails is tried again; not where it lacks a band, a scaling, a place or any
            valid pixel.
        only_failed: map only scenes that failed the last time.
        overwrite: map all scenes again.
        strict: do not begin if a scene cannot be read.
        mosaic: one map of all, "later" or "confidence" for what wins where scenes overlap; None for none.
        merged: options of `landcover.vectorize` for one file of the polygons of all scenes, joined across their
            borders; None for none.
    """

    catalog: str
    out: Path
    model: str | None = None
    mapping: dict[str, Any] = field(default_factory=dict)
    confidence: bool = False
    vectors: dict[str, Any] | None = None
    suffix: str = ".gpkg"
    choose: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None
    scheduler: str | None = None
    part_rows: int | None = None
    retries: int = 1
    only_failed: bool = False
    overwrite: bool = False
    strict: bool = False
    mosaic: str | None = None
    merged: dict[str, Any] | None = None

    @property
    def device(self) -> str:
        """As for `predict`."""
        return device_of(self.mapping)

    def __post_init__(self) -> None:
        check_here(Path(self.out))
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers must be at least 1, not {self.workers}")
        if self.workers is not None and self.scheduler is not None:
            raise ConfigError("--workers starts workers on this machine, --scheduler joins a cluster; give one of them")
        if (limit := self.choose.get("limit")) is not None and limit < 1:
            raise ConfigError(f"--limit must be at least 1, not {limit}")
        if self.retries < 0:
            raise ConfigError(f"--retries must be 0 or more, not {self.retries}")
        if self.part_rows is not None and self.part_rows < 0:
            raise ConfigError(f"--part-rows must be auto, or 0 or more rows of windows, not {self.part_rows}")
        if self.mosaic not in (None, "later", "confidence"):
            raise ConfigError(f"--mosaic '{self.mosaic}' is not known; choose later or confidence")
        if self.mosaic == "confidence" and not self.confidence:
            raise ConfigError("--mosaic confidence needs the confidence of each map; add --confidence")
