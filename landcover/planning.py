"""What is decided before a pixel is mapped: bands, windows, engine, outputs, and what may be wrong with them."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from landcover import __version__
from landcover.bands import Choice, shared
from landcover.chips import CHUNK_ROWS, even_batch_size
from landcover.classmap import (
    CONFIDENCE_NODATA,
    MAP_NODATA,
    SCORE_NODATA,
    SCORE_SCALE,
)
from landcover.cog import BLOCK, ENCODER_CACHE, Layer
from landcover.engines import EngineChoice, choose_engine
from landcover.errors import ConfigError, ModelError, OutputError, SceneError
from landcover.grid import OVERLAP, TILE_SIZE, Box, Grid, make_grid
from landcover.models import Model
from landcover.outputs import check_destination
from landcover.processors import own_threads
from landcover.products import is_local
from landcover.provenance import tags
from landcover.regions import Area, box_of_bounds, read_area
from landcover.scaling import Scaling, make_scaling
from landcover.scene import Scene, scene_files
from landcover.selection import select_model
from landcover.specs import Legend, load_legend

_log = logging.getLogger(__name__)

CPU_BATCH_SIZE = 1
CUDA_BATCH_PIXELS = 4 * TILE_SIZE**2
"""Of the windows that a card scores at once; smaller windows are more to a batch."""

CUDA_LARGEST_BATCH = 64
BATCHES_AHEAD = 1
"""Batches that are cut while the engine is busy."""

WRITE_BEHIND = 2
"""Finished windows that wait for the writer."""

PANEL_BYTES = 800 << 20
"""Bound of the memory that grows with the width; a wider scene is mapped in panels, one after the other."""


@dataclass(frozen=True)
class Options:
    """How a scene is to be mapped.

    Attributes:
        scene: any raster GDAL reads, a folder of band files, or a STAC item.
        out: the class map to write, a GeoTIFF.
        model: a loaded model, the name of an embedded one, or a model folder; None for the embedded one that suits.
        sensor: name in `configs/sensors`, or a TOML file.
        bands: which band is which, common name → number or label in the scene.
        scale, offset: reflectance = digital number * scale + offset.
        legend: of the map, by its name, its file or as a value: classes of the model's names, whose numbers and colours
            the map takes; None for the model's own.
        tile_size, overlap: of windows, in pixels that the network sees, so that of a scene that is enlarged a window
            covers fewer; rounded up to multiples of the network's stride.
        batch_size: windows scored at once; None for a good one.
        device: "auto", "cpu", "cuda" or "cuda:N".
        engine: "auto", "openvino" or "torch".
        precision: "f32", "bf16", or "auto" for bf16 where the processor computes in it and the model allows it.
        bbox: min_x, min_y, max_x, max_y of the part to map, in `bbox_crs`, or the scene's CRS if that is None; min_x is
            the greater of longitudes where it crosses the antimeridian.
        aoi: vector file with polygons; what lies outside becomes nodata.
        confidence: where to write the confidence, uint8 percent, 255 = nodata; None for not.
        scores: where to write the scores, one band per class, uint16 ten-thousandths, 65535 = nodata; None for not.
        stac: describe the map as a STAC Item too, in a file of its name that ends in .json.
        overwrite: replace outputs that exist.
        resume: go on from what a run that was stopped has finished; False to start over.
        allow_no_crs: map a scene that is not placed on the earth.
        allow_untrained: use a model that was never trained, for tests and benchmarks.
        allow_resolution: use a model far from the resolution it was trained for.
    """

    scene: str | Path
    out: str | Path
    model: Model | str | Path | None = None
    sensor: str | None = None
    bands: Mapping[str, str | int] | None = None
    scale: float | None = None
    offset: float | None = None
    legend: Legend | dict[str, Any] | str | None = None
    tile_size: int = TILE_SIZE
    overlap: int = OVERLAP
    batch_size: int | None = None
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    bbox: tuple[float, float, float, float] | None = None
    bbox_crs: str | None = None
    aoi: str | Path | None = None
    confidence: str | Path | None = None
    scores: str | Path | None = None
    stac: bool = False
    overwrite: bool = False
    resume: bool = True
    allow_no_crs: bool = False
    allow_untrained: bool = False
    allow_resolution: bool = False

    @property
    def outputs(self) -> list[Path]:
        """The files to be written."""
        return [Path(p) for p in (self.out, self.confidence, self.scores) if p is not None]

    @property
    def item(self) -> Path | None:
        """The STAC Item to be written, if one is asked for."""
        return Path(self.out).with_suffix(".json") if self.stac else None


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first pixel is mapped.

    Attributes:
        options: what was asked for.
        model, scene: opened and checked.
        grid: the windows, and the region of the scene that is wanted.
        area: the polygons outside of which the map is nodata; None for all.
        choice: engine, device and precision.
        batch_size: windows scored at once.
        legend: of the map.
        why: the model was taken, where it was not named and is not the default.
    """

    options: Options
    model: Model
    scene: Scene
    grid: Grid
    area: Area | None
    choice: EngineChoice
    batch_size: int
    legend: Legend
    why: str = ""

    @cached_property
    def scaling(self) -> Scaling:
        """From the scene's digital numbers to what the network sees."""
        bands, stats = self.scene.bands, self.model.spec.stats
        return make_scaling(
            [b.scale for b in bands], [b.offset for b in bands], [s.mean for s in stats], [s.stddev for s in stats]
        )

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The number in the map of each of the model's classes."""
        numbers = {c.name: c.id for c in self.legend.classes}
        return tuple(numbers[name] for name in self.model.spec.legend.names)

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        return self.batch_size, len(self.scene.bands), self.grid.rows.tile, self.grid.cols.tile

    @property
    def at_once(self) -> int:
        """How many batches are scored at once, where the engine gives each a core of its own, as OpenVINO does."""
        grid = self.grid
        return min(own_threads(), len(grid.window_rows) * math.ceil(len(grid.window_cols) / self.batch_size))

    @property
    def chunks_ahead(self) -> int:
        """How many chunks of the scene are read ahead: a quarter of a row of windows."""
        return math.ceil(self.grid.rows.step / CHUNK_ROWS / 4)

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """The rasters to be written: "map", and "confidence" and "scores" where asked for."""
        spec, region, options = self.model.spec, self.grid.region, self.options
        layer = partial(
            Layer,
            height=region.height,
            width=region.width,
            transform=self.scene.transform @ Affine.translation(region.col0, region.row0),
            crs=self.scene.crs,
        )
        layers = {
            "map": layer(
                path=Path(options.out),
                dtype="uint8",
                nodata=MAP_NODATA,
                bands=("class",),
                legend=self.legend,
                overviews="mode",
                tags=self._tags(legend=self.legend.model_dump_json()),
            )
        }
        if options.confidence is not None:
            layers["confidence"] = layer(
                path=Path(options.confidence),
                dtype="uint8",
                nodata=CONFIDENCE_NODATA,
                bands=("confidence, percent",),
                tags=self._tags(),
            )
        if options.scores is not None:
            layers["scores"] = layer(
                path=Path(options.scores),
                dtype="uint16",
                nodata=SCORE_NODATA,
                bands=spec.legend.names,
                scale=SCORE_SCALE,
                tags=self._tags(),
            )
        return layers

    def _tags(self, **more: Any) -> dict[str, str]:
        return tags(
            scene=_file_name(self.scene.name),
            model=self.model.spec.name,
            model_sha256=self.model.sha256,
            engine=self.choice.tag,
            windows={
                "tile": self.grid.rows.tile,
                "overlap": self.grid.rows.tile - self.grid.rows.step,
                "batch": self.batch_size,
            },
            bands={b.name: b.facts for b in self.scene.bands},
            aoi=None if self.area is None else _file_name(str(self.options.aoi)),
            **more,
        )

    @cached_property
    def panels(self) -> list[Grid]:
        """The parts of the region that are mapped one after the other, from left to right, each from top to bottom."""
        fixed = sum(self._memory_by_width(0).values())  # what a narrower panel would not save
        for most in range(len(self.grid.window_cols), 1, -1):
            panels = self.grid.panels(most)
            widest = max(panel.read_box.width for panel in panels)
            if sum(self._memory_by_width(widest).values()) - fixed <= PANEL_BYTES:
                return panels
        return self.grid.panels(1)

    def parts(self, rows: int, folder: Path) -> list["Plan"]:
        """Cut the plan into parts, which can be mapped apart and joined.

        Args:
            rows: of windows in a part, at most.
            folder: where the pixels of the parts go.
        """
        return [self._part(grid, folder) for grid in self.grid.parts(rows)]

    def _part(self, grid: Grid, folder: Path) -> "Plan":
        options = self.options
        name = f"rows-{grid.region.row0}-{grid.region.row1}"
        confidence = folder / f"{name}.confidence" if options.confidence is not None else None
        scores = folder / f"{name}.scores" if options.scores is not None else None
        here = replace(options, out=folder / f"{name}.map", confidence=confidence, scores=scores)
        return replace(self, grid=grid, options=here)

    @property
    def work(self) -> float:
        """Pixels the network sees for each pixel of the region."""
        return sum(p.work * p.region.width for p in self.panels) / self.grid.region.width

    @property
    def _overlap(self) -> int:
        return max(axis.tile - axis.step for axis in (self.grid.rows, self.grid.cols))

    def _memory_by_width(self, width: int) -> dict[str, int]:
        """Upper bounds, in bytes, of what is held of rows of that many pixels."""
        pixel = len(self.scene.bands) * np.dtype(self.scene.dtype).itemsize + 1 + (self.area is not None)
        rows = self.grid.rows.tile + (self.chunks_ahead + 5) * CHUNK_ROWS  # two at the margins, three under way
        return {
            "rows of the scene": rows * width * pixel,
            "decoded blocks": self.scene.cache_bytes(width),
            "sums of scores": self._overlap * width * len(self.model.spec.legend.classes) * 4,
        }

    def memory(self) -> dict[str, int]:
        """Upper bounds, in bytes, of what is held at once beside the program itself; none grows with the scene."""
        n, bands, height, width = self.batch_shape
        classes, options = len(self.model.spec.legend.classes), self.options
        outputs = 1 + (options.confidence is not None) + 2 * classes * (options.scores is not None)
        pixel = bands * np.dtype(self.scene.dtype).itemsize + 2
        networks, under_way = (self.at_once,) * 2 if self.choice.engine == "openvino" else (1, 2)
        return {
            **self._memory_by_width(max(panel.read_box.width for panel in self.panels)),
            "batches": (BATCHES_AHEAD + 2 + under_way) * n * height * width * pixel,
            "scores": under_way * n * height * width * classes * 4,
            "windows to be written": height * width * (outputs * (WRITE_BEHIND + 2) + 8 * classes),
            "network": networks * self._network_bytes(),
            "encoding": ENCODER_CACHE + 2 * BLOCK * self.grid.region.width * (2 if options.scores is not None else 1),
        }

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the map depends on, as plain values: a stopped run is gone on with only if they are the same."""
        scene, grid = self.scene, self.grid
        region = grid.region
        return {
            "version": __version__,
            "scene": [
                scene.height,
                scene.width,
                str(scene.transform.to_gdal()),
                [_identity(path) for path in scene.files],
            ],
            "bands": [[b.source.index, b.scale, b.offset, str(b.nodata)] for b in scene.bands],
            "alpha is a band": scene.spectral_alpha,
            "model": [self.model.digest, self.model.factor],
            "engine": [self.choice.engine, self.choice.device.partition(":")[0], self.choice.precision],
            "windows": [[a.tile, a.step] for a in (grid.rows, grid.cols)] + [self.batch_size],
            "region": [region.row0, region.row1, region.col0, region.col1, len(self.panels)],
            "legend": self.legend.model_dump_json(),
            "area of interest": self.area.sha256 if self.area else None,
            "outputs": list(self.layers),
        }

    def describe(self) -> dict[str, Any]:
        """The plan as plain values, to be printed."""
        region, memory = self.grid.region, self.memory()
        return {
            "scene": f"{self.scene.name}, {self.scene.height} × {self.scene.width} {self.scene.dtype}",
            "region": f"{region.height} × {region.width} pixels from row {region.row0}, column {region.col0}",
            "GSD": f"{self.scene.gsd:.4g} m" if self.scene.gsd else "unknown",
            "model": f"{self.model.spec.name}, sha256 {self.model.sha256[:12]}" + (self.why and f"; {self.why}"),
            "enlarged": f"{self.model.factor} ×, to {self.scene.gsd / self.model.factor:.3g} m, as the network sees"
            if self.model.factor > 1 and self.scene.gsd
            else "no",
            "engine": str(self.choice),
            "bands": {b.name: str(b) for b in self.scene.bands},
            "windows": f"{len(self.grid.window_rows)} × {len(self.grid.window_cols)} of {self.grid.rows.tile} × "
            f"{self.grid.cols.tile}, every {self.grid.rows.step} × {self.grid.cols.step}, batch {self.batch_size}; "
            f"the network sees {self.work:.2f} pixels for each one mapped",
            "panels": f"{len(self.panels)}, of at most {max(p.region.width for p in self.panels)} pixels' width",
            "memory": {
                name: f"{size / 1e6:.0f} MB" for name, size in {**memory, "bound": sum(memory.values())}.items()
            },
            "outputs": self.outputs,
        }

    @property
    def outputs(self) -> dict[str, str]:
        """The files that are written, by what they are."""
        files = {name: str(layer.path) for name, layer in self.layers.items()}
        return files | ({"item": str(self.options.item)} if self.options.item is not None else {})

    def _network_bytes(self) -> int:
        """What the layers of a network hold at once while a batch is scored."""
        shape, choice = self.batch_shape, self.choice
        if choice.engine == "openvino":
            from landcover.engines.openvino import network_bytes

            return network_bytes(self.model, self.scaling, shape, self.scene.dtype, choice.precision)
        from landcover.network import live_bytes

        n, bands, height, width = shape
        return n * height * width * live_bytes(self.model.network, bands, self.model.stride)


def make_plan(options: Options) -> Plan:
    """Decide everything about a prediction, and find all that can be wrong with it; reads but a few pixels.

    Raises:
        LandcoverError: the scene, the model, an option or the output cannot be used.
    """
    given = read_legend(options.legend)
    model, scene, why = select_model(
        options.model,
        str(options.scene),
        Choice(options.sensor, options.bands, options.scale, options.offset),
        legend=given,
        allow_no_crs=options.allow_no_crs,
        allow_resolution=options.allow_resolution,
    )
    check_trained(model, allowed=options.allow_untrained)
    if told := shared(scene.bands):
        _log.warning(told)
    choice = choose_engine(options.device, options.engine, options.precision, bf16_safe=model.spec.bf16_safe)
    legend = map_legend(given, model)
    _check_outputs(options)
    _check_inputs_are_kept(options)
    place = scene.transform, scene.crs, (scene.height, scene.width)
    area = read_area(options.aoi, *place) if options.aoi is not None else None
    model = model.for_gsd(scene.gsd)
    grid = make_grid(
        scene.height,
        scene.width,
        tile=-(-options.tile_size // model.factor),
        overlap=-(-options.overlap // model.factor),
        stride=model.stride,
        region=_region(options, scene, area),
    )
    batch_size = _batch_size(options, choice, grid, model.factor)
    return Plan(options, model, scene, grid, area, choice, batch_size, legend, why)


def check_trained(model: Model, *, allowed: bool) -> None:
    """Refuse a model that was never trained, unless that is allowed."""
    if not model.spec.trained and not allowed:
        raise ModelError(
            f"the model '{model.spec.name}' was never trained, its map would be noise; add --allow-untrained"
        )


def read_legend(given: Legend | dict[str, Any] | str | None) -> Legend | None:
    """The legend that is given, as `Options.legend`; a ConfigError if it is not known."""
    return load_legend(given) if isinstance(given, str) else Legend.model_validate(given) if given else None


def map_legend(legend: Legend | None, model: Model) -> Legend:
    """The legend of a map: the one that is given, or the model's own.

    Raises:
        ConfigError: it lacks a class of the model.
    """
    own = model.spec.legend
    if legend is None:
        return own
    if missing := [name for name in own.names if name not in legend.names]:
        raise ConfigError(
            f"the legend '{legend.name}' has no class '{missing[0]}', which the model '{model.spec.name}' maps; it has "
            f"{', '.join(legend.names)}: name its classes as the model does"
        )
    return legend


def _file_name(name: str) -> str:
    """The name of a file, of a signed address without its secret."""
    return Path(name if is_local(name) else name.partition("?")[0]).name


def _identity(path: str) -> list[Any]:
    """What tells one file from another, or from itself before it was changed; of a remote one, its address."""
    try:
        facts = Path(path).stat()
    except OSError:
        return [path.partition("?")[0]]
    return [Path(path).name, facts.st_size, facts.st_mtime_ns]


def _region(options: Options, scene: Scene, area: Area | None) -> Box | None:
    """The pixels asked for: the box, the area's bounds, what both share, or all."""
    size = (scene.height, scene.width)
    boxes = []
    if options.bbox_crs is not None and options.bbox is None:
        raise ConfigError("--bbox-crs is given without --bbox; add the box, or leave it out")
    if options.bbox is not None:
        boxes.append(box_of_bounds(options.bbox, options.bbox_crs, scene.transform, scene.crs, size))
    if area is not None:
        boxes.append(box_of_bounds(area.bounds, None, scene.transform, scene.crs, size))
    if len(boxes) < 2:
        return boxes[0] if boxes else None
    row0, col0 = max(b.row0 for b in boxes), max(b.col0 for b in boxes)
    row1, col1 = min(b.row1 for b in boxes), min(b.col1 for b in boxes)
    if row0 >= row1 or col0 >= col1:
        raise SceneError("--bbox and --aoi have no pixel in common; correct one of them")
    return Box(row0, row1, col0, col1)


def _batch_size(options: Options, choice: EngineChoice, grid: Grid, factor: int) -> int:
    check_batch_size(options.batch_size)
    limit = options.batch_size
    if limit is None:
        limit = _cuda_batch_size(grid, factor) if choice.device.startswith("cuda") else CPU_BATCH_SIZE
    return even_batch_size(grid.cols.count, limit)


def check_batch_size(asked: int | None) -> None:
    """Refuse a number of windows that is none."""
    if asked is not None and asked < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {asked}")


def _cuda_batch_size(grid: Grid, factor: int) -> int:
    """As many windows as keep a card busy; it follows from the windows alone, so that every card gives the same map.

    How many of them are scored at once is for the engine to say, from the memory that is free.
    """
    return min(max(1, CUDA_BATCH_PIXELS // (grid.rows.tile * grid.cols.tile * factor**2)), CUDA_LARGEST_BATCH)


def _check_outputs(options: Options) -> None:
    outputs = options.outputs
    for path in outputs:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise OutputError(f"{path}: maps are written as GeoTIFF; give a name that ends in .tif")
        if path.resolve() == Path(options.scene).resolve():
            raise OutputError(f"{path} is the scene itself; choose another name for the output")
        check_destination(path, overwrite=options.overwrite)
    if options.item is not None:
        check_destination(options.item, overwrite=options.overwrite)
    if len({p.resolve() for p in outputs}) < len(outputs):
        raise OutputError(f"two outputs have the same name {outputs[0]}; give each its own")


def _check_inputs_are_kept(options: Options) -> None:
    """Refuse to write over a file of the scene, wanted or not, or the area of interest."""
    there = [p for p in (*options.outputs, *([options.item] if options.item else [])) if p.exists()]
    if not there:
        return
    inputs = {Path(options.scene).resolve(), *(path.resolve() for path in scene_files(str(options.scene)))}
    if options.aoi is not None:
        inputs.add(Path(options.aoi).resolve())
    for path in there:
        if path.resolve() in inputs:
            raise OutputError(f"{path} is an input of this run; choose another name for the output")
