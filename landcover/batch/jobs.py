"""What crosses the wire: paths and small facts, never pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def device_of(asked: Mapping[str, Any]) -> str:
    """Which device is asked for, as for `choose_engine`: OpenVINO computes on the processor."""
    device = asked.get("device", "auto")
    return "cpu" if device == "auto" and asked.get("engine") == "openvino" else device


@dataclass(frozen=True)
class Needs:
    """What a worker must have, so that it makes the maps that the others make.

    Attributes:
        version: of landcover.
        model: an embedded model's name, or a model folder; None for the embedded one that suits a scene.
        digests: by model name, of weights and card: of the model, or of all embedded ones.
        engine: arguments of `landcover.engines.choose_engine`: what was asked for.
    """

    version: str
    model: str | None
    digests: dict[str, str]
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return device_of(self.engine)


@dataclass(frozen=True)
class Job:
    """One scene of a batch.

    Attributes:
        batch: which run of the command it belongs to.
        name: of its outputs, a relative path.
        source: what `predict` takes as a scene.
        out: the folder of the batch.
        digest: of all that the outputs depend on; equal digests, equal outputs.
        map_digest: of all that the map and its confidence depend on.
        needs: of the worker.
        mapping: attributes of `landcover.planning.Options`, but scene, outputs and model.
        confidence: write the confidence too.
        vectors: options of `landcover.vectorize`; None for no polygons.
        suffix: of the polygons, such as .gpkg.
        datetime: when the scene was taken, ISO 8601; None if unknown.
        pixels: of the scene; 0 if unknown.
        part_rows: rows of windows in a part, where the scene is mapped in parts; else None.
        parts: how many.
    """

    batch: str
    name: str
    source: str
    out: str
    digest: str
    map_digest: str
    needs: Needs
    mapping: dict[str, Any] = field(default_factory=dict)
    confidence: bool = False
    vectors: dict[str, Any] | None = None
    suffix: str = ".gpkg"
    datetime: str | None = None
    pixels: int = 0
    part_rows: int | None = None
    parts: int = 0

    @property
    def folder(self) -> Path:
        """Where the outputs of the scene go."""
        return Path(self.out) / self.name

    def path(self, ending: str) -> Path:
        """An output of the scene, such as `_map.tif`."""
        return self.folder / (self.folder.name + ending)

    @property
    def map(self) -> Path:
        return self.path("_map.tif")

    @property
    def item(self) -> Path:
        """The STAC Item, which is written last: where it holds the digest, all outputs are complete."""
        return self.path(".json")

    @property
    def log(self) -> Path:
        return self.path(".log")

    @property
    def polygons(self) -> Path | None:
        return self.path(f"_polygons{self.suffix}") if self.vectors is not None else None

    @property
    def outputs(self) -> dict[str, Path]:
        """The files by what they are, the map first."""
        named = {"map": self.map, "confidence": self.path("_confidence.tif") if self.confidence else None}
        return {key: path for key, path in {**named, "polygons": self.polygons}.items() if path}

    @property
    def mark(self) -> Path:
        """A file that says that the map is there, as long as the item does not."""
        return self.folder / ".mapped"

    @property
    def parts_folder(self) -> Path:
        """Where finished parts wait to be joined; parts of another digest lie elsewhere."""
        return self.folder / f".parts-{self.map_digest[:16]}"


@dataclass(frozen=True)
class Task:
    """What a worker is given to do: a part of a job, or all of it, which is to join its parts where it was cut.

    Attributes:
        job: the scene.
        part: number of the part; None for all.
        attempt: counts from 0.
    """

    job: Job
    part: int | None = None
    attempt: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return self.job.name if self.part is None else f"{self.job.name}, part {self.part + 1} of {self.job.parts}"


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        state: "done"; "failed"; "busy" if another process holds the outputs; "refused" if the worker does not suit;
            "stopped" if it was asked to stop.
        worker: host and process.
        address: of the worker in its cluster.
        seconds: of work.
        pixels: mapped now, nodata included; 0 if it was done before.
        error: a sentence.
        notes: what the person should know.
        model, engine: what it was computed with; "" if nothing was.
        lasting: it failed for what the scene is, so that to try again is of no use.
    """

    state: str
    worker: str = ""
    address: str = ""
    seconds: float = 0.0
    pixels: int = 0
    error: str = ""
    notes: tuple[str, ...] = ()
    model: str = ""
    engine: str = ""
    lasting: bool = False
