"""Labels: what the values of rasters and shapes mean, and which pixels of a scene they lie upon."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
import shapely
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from landcover.antimeridian import as_counted
from landcover.errors import ConfigError, SamplesError, SceneError, nearest
from landcover.grid import Box
from landcover.products import open_file
from landcover.recipes import SceneSource, Source
from landcover.regions import placed
from landcover.scene import Scene
from landcover.specs import Legend

_log = logging.getLogger(__name__)

IGNORE = "ignore"
"""What the recipe calls labels that are not learned."""

_VECTORS = {".gpkg", ".geojson", ".json", ".fgb", ".parquet", ".geoparquet", ".shp", ".gml", ".kml", ".sqlite"}


ReadLabels = Callable[[Box], np.ndarray]
"""Gives the class numbers of a box of a scene, uint8 (rows, cols), 0 = ignore."""


@dataclass
class Labels:
    """Turns the values of one source into class numbers, and counts those it does not know.

    A text is a name before it is a number, and a number is an id: a class may be called "2". Where the recipe says what
    labels stand for, a number that it does not name may be the code of anything; the name of a class remains one.

    Attributes:
        where: they come from, for messages.
        legend: the classes that they are counted by.
        explained: the recipe says what labels stand for.
        of_text: what a text means, 0 for ignore, k for the legend's k-th class.
        of_number: what a number means, by its text.
        unknown: how many pixels, or shapes, had a value that is in no legend.
    """

    where: str
    legend: Legend
    explained: bool
    of_text: dict[str, int]
    of_number: dict[str, int]
    unknown: Counter[Any] = field(default_factory=Counter)

    @classmethod
    def of_source(cls, source: Source, legend: Legend, where: str) -> "Labels":
        """What a source's labels mean.

        Raises:
            ConfigError: the recipe names a class that the legend has not.
        """
        numbers = {id_: k for k, id_ in enumerate(legend.ids, 1)}
        names = {name: k for k, name in enumerate(legend.names, 1)}
        if source.classes:
            known = (*names, *map(str, numbers), IGNORE)
            if wrong := [name for name in source.classes.values() if name not in known]:
                raise ConfigError(
                    f"the classes that the recipe gives for {where} name '{wrong[0]}', which is no class of the legend "
                    f"'{legend.name}': {nearest(wrong[0], (*names, IGNORE))}"
                )
            meant = {v: 0 if n == IGNORE else numbers[legend.id_of(n)] for v, n in source.classes.items()}
        else:
            meant = {str(id_): k for id_, k in numbers.items()}
        meant = {"0": 0, **meant}
        of_text = names | meant if source.classes else meant | names
        return cls(where, legend, bool(source.classes), of_text, meant)

    def number(self, value: Any) -> int:
        """The class number of one value."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        known = self.of_text if isinstance(value, str) else self.of_number
        if (number := known.get(str(value))) is None:
            self.unknown[str(value)] += 1
            return 0
        return number

    def numbers(self, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The class numbers of a raster, uint8; 0 where `known` is False."""
        out = np.zeros(values.shape, np.uint8)
        for value, count in zip(*np.unique(values[known], return_counts=True), strict=True):
            if not np.isfinite(value):
                continue
            text = str(int(value)) if float(value).is_integer() else f"{value:g}"
            if (number := self.of_number.get(text)) is None:
                self.unknown[text] += int(count)
            elif number:
                out[known & (values == value)] = number
        return out

    def check(self) -> None:
        """Refuse values that nobody explained.

        Raises:
            SamplesError: with each value and how often it occurs.
        """
        if self.unknown:
            found = ", ".join(f"{v!r} ({n:,} ×)" for v, n in self.unknown.most_common(8))
            first = next(iter(self.unknown))
            alike = (n for n in self.legend.names if n.casefold() == first.strip().casefold())
            example = f'"{first}" = "{next(alike, IGNORE)}"'
            classes = ", ".join(f"{c.id} {c.name}" for c in self.legend.classes)
            if self.explained:
                raise SamplesError(
                    f"{self.where} holds labels that the source's classes do not name: {found}; add what they stand "
                    f"for, as {example}"
                )
            raise SamplesError(
                f"{self.where} holds labels that the legend does not know: {found}; it knows {classes}. Say what they "
                f"stand for in the source's classes, as {{ {example} }}, and there what every other number does"
            )


def labels_of(source: SceneSource, scene: Scene, labels: Labels) -> AbstractContextManager[ReadLabels]:
    """The labels that a source has for its scene, from shapes or from a raster."""
    assert source.labels is not None
    if source.labels.suffix.lower() in _VECTORS:
        return _Shapes(source, scene, labels)
    return LabelRaster(source.labels, source.band, scene, labels)


class LabelRaster:
    """A raster of labels, brought to the grid of a scene by its nearest pixels."""

    def __init__(self, path: Path, band: int, scene: Scene, labels: Labels, *, same_shape: bool = False) -> None:
        self._path, self._band, self._scene, self._labels = path, band, scene, labels
        self._same_shape = same_shape

    def __enter__(self) -> "LabelRaster":
        with ExitStack() as stack:
            self._file = self._open(stack)
            roles = self._file.colorinterp
            self._alpha = roles.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in roles else None
            self._stack = stack.pop_all()
        return self

    def _open(self, stack: ExitStack) -> Any:
        """The file, or a view of it, on the grid of the scene, for as long as `stack` lasts."""
        scene = self._scene
        try:
            file = open_file(str(self._path), stack)
        except SceneError as e:
            raise SamplesError(f"the labels {self._path} cannot be opened: {e}") from e
        if self._band > file.count:
            raise SamplesError(f"{self._path} has no band {self._band}; it holds {file.count}")
        self._nodata = file.nodatavals[self._band - 1]
        if self._same_shape and file.shape != (scene.height, scene.width):
            raise SamplesError(f"{self._path} is {file.shape}, not {(scene.height, scene.width)} as {scene.name}")
        if not self._same_shape and not self._on_grid(file):
            left, bottom, right, top = file.bounds  # upside down where its rows go north
            _check_overlap(str(self._path), scene, file.crs, (left, min(bottom, top), right, max(bottom, top)))
            _warn_of_shift(str(self._path), file, scene)
            view = WarpedVRT(
                file,
                crs=scene.crs,
                transform=scene.transform,
                height=scene.height,
                width=scene.width,
                resampling=Resampling.nearest,
                src_nodata=None,  # which would keep GDAL from looking at the mask of the file
                nodata=None,
                add_alpha=ColorInterp.alpha not in file.colorinterp,
            )
            return stack.enter_context(view)
        return file

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def __call__(self, box: Box) -> np.ndarray:
        """Class numbers of a box, uint8 (rows, cols)."""
        window = Window(box.col0, box.row0, box.width, box.height)
        try:
            values = self._file.read(self._band, window=window)
            if self._alpha:  # which GDAL itself takes for a mask in some types of numbers only
                known = self._file.read(self._alpha, window=window) > 0
            else:
                known = self._file.read_masks(self._band, window=window) > 0
        except RasterioError as e:
            raise SamplesError(f"the labels {self._path} cannot be read; the file may be cut short: {e}") from e
        if self._nodata is not None:  # a mask goes before it in GDAL
            known &= values != self._nodata
        return self._labels.numbers(values, known)

    def _on_grid(self, file: rasterio.DatasetReader) -> bool:
        scene = self._scene
        same = file.crs == scene.crs and file.transform.almost_equals(scene.transform, 1e-6)
        return same and file.shape == (scene.height, scene.width)


class _Shapes:
    """Polygons, lines or points with a class, or to be ignored; where two of these claim a pixel it is ignored."""

    def __init__(self, source: SceneSource, scene: Scene, labels: Labels) -> None:
        import geopandas

        path = source.labels
        assert path is not None
        frame = _read_shapes(path, source.layer, source.column)
        if frame.crs is None:
            raise SamplesError(f"{path} has no coordinate reference system, so it cannot be laid over {scene.name}")
        numbers = np.array([labels.number(v) for v in frame[source.column]])
        labels.check()
        shapes = placed(frame, str(path), scene.transform, scene.crs, (scene.height, scene.width))
        near = ~shapely.is_empty(shapes)  # the others were cut off
        if not near.any():
            raise SamplesError(f"{path} and {scene.name} do not overlap: all shapes lie elsewhere")
        of_class = {k: shapes[near & (numbers == k)] for k in np.unique(numbers[near])}
        if scene.crs is not None and scene.crs.is_geographic:
            size = (scene.height, scene.width)
            of_class = {k: as_counted(some, scene.transform, size) for k, some in of_class.items()}
        every = np.concatenate(list(of_class.values()))
        _check_overlap(str(path), scene, scene.crs, tuple(shapely.total_bounds(every)))
        self._scene = scene
        self._classes = {k: geopandas.GeoSeries(some) for k, some in of_class.items()}

    def __enter__(self) -> "_Shapes":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def __call__(self, box: Box) -> np.ndarray:
        """Class numbers of a box, uint8 (rows, cols)."""
        transform = self._scene.transform @ Affine.translation(box.col0, box.row0)
        left, bottom, right, top = bounds_of(Box(0, box.height, 0, box.width), transform)
        labels = np.zeros((box.height, box.width), np.uint8)
        claims = np.zeros_like(labels)
        for number, shapes in self._classes.items():
            near = shapes.cx[left:right, bottom:top]
            if len(near):
                shape = (box.height, box.width)
                mine = rasterize(list(near), shape, transform=transform, default_value=1, dtype="uint8") > 0
                labels[mine] = number
                claims += mine
        return labels * (claims == 1)


def _read_shapes(path: Path, layer: str | None, column: str) -> Any:
    """The shapes of a file that have a class, a GeoDataFrame."""
    import geopandas

    parquet = path.suffix.lower() in (".parquet", ".geoparquet")
    if parquet and layer is not None:
        raise SamplesError(f"{path} has no layers; leave layer = '{layer}' out of the recipe")
    try:
        frame = geopandas.read_parquet(path) if parquet else geopandas.read_file(path, layer=layer)
    except Exception as e:
        raise SamplesError(f"the labels {path} cannot be read: {e}") from e
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise SamplesError(f"{path} is a table without shapes; name a file or a layer of polygons or points")
    if column not in frame.columns:
        columns = ", ".join(c for c in frame.columns if c != frame.geometry.name) or "none"
        raise SamplesError(f"{path} has no column '{column}' with classes; it has {columns}")
    frame = frame[~(frame.geometry.is_empty | frame.geometry.isna() | frame[column].isna())]
    if not len(frame):
        raise SamplesError(f"{path} holds no shape with a class")
    return frame


def bounds_of(box: Box, transform: Affine) -> tuple[float, float, float, float]:
    """The least x and y, and the largest, of the corners of a box of pixels."""
    corners = [transform @ (col, row) for col in (box.col0, box.col1) for row in (box.row0, box.row1)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _check_overlap(path: str, scene: Scene, crs: Any, bounds: tuple[float, ...]) -> None:
    """Refuse labels that lie elsewhere than the scene."""
    if crs is None or scene.crs is None:
        raise SamplesError(f"{path} is on another grid than {scene.name}, and without a CRS it cannot be brought there")
    west, south, east, north = bounds_of(Box(0, scene.height, 0, scene.width), scene.transform)
    try:
        left, bottom, right, top = rasterio.warp.transform_bounds(crs, scene.crs, *bounds)
    except (RasterioError, CPLE_BaseError) as e:
        raise SamplesError(f"{path} cannot be brought to the grid of {scene.name}: {e}") from e
    if left >= east or right <= west or bottom >= north or top <= south:
        raise SamplesError(
            f"{path} and {scene.name} do not overlap: the labels lie within {left:.6g}, {bottom:.6g}, {right:.6g}, "
            f"{top:.6g} and the scene within {west:.6g}, {south:.6g}, {east:.6g}, {north:.6g} of its CRS"
        )


def _warn_of_shift(path: str, file: rasterio.DatasetReader, scene: Scene) -> None:
    """Say if labels of the scene's pixel size lie a part of a pixel beside its grid."""
    if file.crs != scene.crs or not np.allclose([*file.transform][:2], [*scene.transform][:2], rtol=1e-4):
        return
    col, row = ~scene.transform @ (file.transform @ (0, 0))
    apart = max(abs(col - round(col)), abs(row - round(row)))
    if apart > 0.1:
        _log.warning(
            "%s lies %.2f of a pixel beside the grid of %s; its nearest pixels are taken, but check whether it was "
            "stored by pixel centres (pixel is point)",
            path,
            apart,
            scene.name,
        )
