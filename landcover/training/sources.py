"""Sources of labelled pixels: packs of chips, folders of chips, scenes with label rasters, polygons or points."""

import itertools
import logging
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
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

from landcover.bands import Choice, open_file
from landcover.errors import BandError, SamplesError, SceneError
from landcover.grid import Box
from landcover.recipes import ChipsSource, ImageSource, PackSource, SceneSource, Source
from landcover.regions import placed
from landcover.scene import Scene, open_scene
from landcover.specs import Legend

_log = logging.getLogger(__name__)

IGNORE = "ignore"
"""What the recipe calls labels that are not learned."""

_VECTORS = {".gpkg", ".geojson", ".json", ".fgb", ".parquet", ".geoparquet", ".shp", ".gml", ".kml", ".sqlite"}


ReadLabels = Callable[[Box], np.ndarray]
"""Gives the class numbers of a box of a scene, uint8 (rows, cols), 0 = ignore."""

_RASTERS = (".tif", ".tiff", ".jp2", ".png")


@dataclass(frozen=True)
class Piece:
    """Neighbouring pixels with their labels.

    Attributes:
        reflectance: float32 (bands, height, width), finite.
        valid: bool (height, width), True = usable.
        labels: uint8 (height, width), 0 = ignore, k = the legend's k-th class.
        scene: what they lie in.
        place: what they are split by, where it is not scenes or blocks.
        grid: what row and col count in. Pieces of one grid, of several scenes too, lie beside or upon each other.
        row, col: of their first pixel in the grid.
        gsd: metres per pixel; None if it is not known.
        bounds: west, south, east, north in degrees; None if they are not known.
    """

    reflectance: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    scene: str
    place: str
    grid: str
    row: int = 0
    col: int = 0
    gsd: float | None = None
    bounds: tuple[float, float, float, float] | None = None


@dataclass
class Labels:
    """Turns the values of one source into class numbers, and counts those it does not know.

    A text is a name before it is a number, and a number is an id: a class may be called "2".

    Attributes:
        of_text: what a text means, 0 for ignore, k for the legend's k-th class.
        of_number: what a number means, by its text.
        unknown: how many pixels, or shapes, had a value that is in no legend.
    """

    where: str
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
        if not source.classes:
            ids = {"0": 0, **{str(i): k for i, k in numbers.items()}}
            names = {name: k for k, name in enumerate(legend.names, 1)}
            return cls(where, ids | names, ids)
        meant = {v: 0 if n == IGNORE else numbers[legend.id_of(n)] for v, n in source.classes.items()}
        meant = {"0": 0, **meant}
        return cls(where, meant, meant)

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
            raise SamplesError(
                f"{self.where} holds labels that the legend does not know: {found}; "
                f'say what they stand for in the source\'s classes, as {{ "{next(iter(self.unknown))}" = "{IGNORE}" }}'
            )


def read_source(source: Source, bands: tuple[str, ...], legend: Legend, chip: int) -> Iterator[Piece]:
    """Read the labelled pieces of a source, none larger than a chip in either direction.

    Args:
        source: of the recipe.
        bands: the common names wanted, in order.
        legend: the classes that labels are counted by.
        chip: side in pixels.

    Raises:
        SamplesError: the source cannot be read, holds labels that are in no legend, or no labelled pixel at all.
        SceneError, BandError: as for a scene that is to be mapped.
    """
    try:
        if isinstance(source, PackSource):
            yield from _read_pack(source, bands, legend, chip)
        elif isinstance(source, SceneSource):
            yield from _read_scene(source, bands, legend, chip)
        else:
            assert isinstance(source, ChipsSource)
            yield from _read_chips(source, bands, legend, chip)
    except (OSError, RasterioError, CPLE_BaseError) as e:  # of folders; what reads a file explains its own
        name, reason = getattr(e, "filename", None) or "a source", getattr(e, "strerror", None) or e
        raise SamplesError(f"{name} cannot be read: {reason}") from e


def _read_pack(source: PackSource, bands: tuple[str, ...], legend: Legend, chip: int) -> Iterator[Piece]:
    arrays = _load_pack(source)
    images, usable, numbers, groups = (arrays[k] for k in ("images", "valid", "labels", "group"))
    if missing := [b for b in bands if b not in source.bands]:
        raise BandError(f"{source.path} has no band '{missing[0]}'; the recipe says it holds {', '.join(source.bands)}")
    order = [source.bands.index(b) for b in bands]
    labels = Labels.of_source(source, legend, str(source.path))
    for i, (image, clear, values, group) in enumerate(zip(images, usable, numbers, groups, strict=True)):
        pixels = image[order].astype(np.float32)
        valid = clear.astype(bool) & np.isfinite(pixels).all(axis=0)
        pixels[:, ~valid] = 0
        reflectance = np.where(valid, pixels * np.float32(source.scale) + np.float32(source.offset), 0)
        whole = Piece(
            reflectance,
            valid,
            labels.numbers(values, valid),
            scene=f"{source.path}#{i}",
            place=f"{source.path}#{group}",
            grid=f"{source.path}#{i}",
            gsd=source.gsd,
        )
        yield from _cut(whole, chip)
    labels.check()


def _load_pack(source: PackSource) -> dict[str, np.ndarray]:
    """The arrays of a pack, checked against each other; nothing is unpickled."""
    path = source.path
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as z:
            names = {"images": source.images, "valid": source.valid, "labels": source.labels, "group": source.group}
            if absent := [n for n in names.values() if n not in z.files]:
                raise SamplesError(f"{path} has no array '{absent[0]}'; it holds {', '.join(z.files)}")
            arrays = {key: z[name] for key, name in names.items()}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, MemoryError) as e:
        raise SamplesError(f"{path} cannot be read as a pack of chips (.npz): {e}") from e
    if strange := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise SamplesError(f"{path} cannot be read as a pack of chips (.npz): {strange[0]} is no array of NumPy")
    n, channels, *shape = arrays["images"].shape if arrays["images"].ndim == 4 else (0, 0, 0, 0)
    if channels != len(source.bands):
        raise SamplesError(
            f"{path}: its images have the shape {arrays['images'].shape}, and the recipe names {len(source.bands)} "
            "bands; images are (n, bands, height, width)"
        )
    for key in ("valid", "labels"):
        if arrays[key].shape != (n, *shape):
            raise SamplesError(f"{path}: {key} has the shape {arrays[key].shape}, not {(n, *shape)} as its images")
    for key in ("images", "valid", "labels"):
        if arrays[key].dtype.kind not in "biuf":
            raise SamplesError(f"{path}: {key} are of type {arrays[key].dtype}; store numbers")
    if arrays["group"].shape != (n,):
        raise SamplesError(f"{path}: there are {n} images, and the groups have the shape {arrays['group'].shape}")
    return arrays


def _read_chips(source: ChipsSource, bands: tuple[str, ...], legend: Legend, chip: int) -> Iterator[Piece]:
    images = sorted(p for p in source.images.rglob("*") if _is_raster(p))
    if not source.images.is_dir():
        raise SamplesError(f"{source.images} is no folder of images; correct images in the recipe")
    if not images:
        raise SamplesError(f"{source.images} holds no image (.tif, .jp2, .png)")
    labels = Labels.of_source(source, legend, str(source.labels))
    listed: dict[Path, dict[str, list[Path]]] = {}
    for image in images:
        inside = image.relative_to(source.images).parent
        beside = source.labels / inside
        if not beside.is_dir():
            raise SamplesError(
                f"{image} has no labels: the folder {beside} does not exist; correct labels in the recipe"
            )
        if beside not in listed:
            listed[beside] = _rasters_by_name(beside)
        match = listed[beside][image.stem]
        if len(match) != 1:
            raise SamplesError(
                f"{image} has {'no' if not match else 'several'} label rasters {image.stem}.* in {beside}"
            )
        scene = _open(str(image), source, bands, allow_no_crs=True)
        place = str(source.images / inside) if inside.parts else str(image)
        reference = _LabelRaster(match[0], source.band, scene, labels, same_shape=True)
        yield from (replace(p, gsd=p.gsd or source.gsd) for p in _windows(scene, reference, chip, place))
    labels.check()


def _is_raster(path: Path) -> bool:
    """Whether a file of a folder of chips is one, and none of those that Macs leave beside each."""
    return path.suffix.lower() in _RASTERS and not path.name.startswith(".")


def _rasters_by_name(folder: Path) -> dict[str, list[Path]]:
    """The rasters in a folder, by their names without suffix."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in filter(_is_raster, folder.iterdir()):
        found[path.stem].append(path)
    return found


def _read_scene(source: SceneSource, bands: tuple[str, ...], legend: Legend, chip: int) -> Iterator[Piece]:
    scene = _open(source.scene, source, bands)
    where = str(source.labels)
    if source.labels is None:
        yield from _windows(scene, None, chip, source.scene)
        return
    labels = Labels.of_source(source, legend, where)
    found = False
    for piece in _windows(scene, _reference(source, scene, labels), chip, source.scene):
        found = True
        yield piece
    labels.check()
    if not found:
        raise SamplesError(f"{where} labels no valid pixel of {source.scene}; do both show the same place?")


def check_reference(source: SceneSource, bands: tuple[str, ...], legend: Legend) -> None:
    """Open a scene and its labels, to find what is wrong with them before they are needed; for tests."""
    scene = _open(source.scene, source, bands)
    with _reference(source, scene, Labels.of_source(source, legend, str(source.labels))):
        pass


def read_reference(source: SceneSource, scene: Scene, legend: Legend) -> np.ndarray:
    """All labels of a scene at once, as class numbers, uint8 (height, width), 0 = ignore; for tests."""
    labels = Labels.of_source(source, legend, str(source.labels))
    with _reference(source, scene, labels) as read:
        found = read(Box(0, scene.height, 0, scene.width))
    labels.check()
    return found


def _reference(source: SceneSource, scene: Scene, labels: Labels) -> AbstractContextManager[ReadLabels]:
    assert source.labels is not None
    if source.labels.suffix.lower() in _VECTORS:
        return _Shapes(source, scene, labels)
    return _LabelRaster(source.labels, source.band, scene, labels)


def _open(name: str, source: ImageSource, bands: tuple[str, ...], *, allow_no_crs: bool = False) -> Scene:
    choice = Choice(source.sensor, source.bands, source.scale, source.offset)
    try:
        return open_scene(name, bands, choice, allow_no_crs=allow_no_crs)
    except BandError as e:
        said = (
            '; in a recipe such options are keys of the source, as sensor = "sentinel2-l2a"' if "--" in str(e) else ""
        )
        raise BandError(f"{e}{said}") from e


def _windows(
    scene: Scene, reference: AbstractContextManager[ReadLabels] | None, chip: int, place: str
) -> Iterator[Piece]:
    """The windows of a scene that hold a label, or all that hold a valid pixel if there is no reference."""
    gain, bias = (np.array([getattr(b, a) for b in scene.bands], np.float32) for a in ("scale", "offset"))
    grid, row0, col0 = _grid(scene)
    with ExitStack() as stack:
        reader = stack.enter_context(scene.open(scene.width))
        read_labels = stack.enter_context(reference) if reference else _no_labels
        corners = itertools.product(range(0, scene.height, chip), range(0, scene.width, chip))
        for row, col in corners:
            box = Box(row, min(row + chip, scene.height), col, min(col + chip, scene.width))
            labels = read_labels(box)
            if reference and not labels.any():
                continue
            dn, valid = reader.read(box)
            labels[~valid] = 0
            if not (labels.any() if reference else valid.any()):
                continue
            reflectance = dn.astype(np.float32) * gain[:, None, None] + bias[:, None, None]
            arrays = (reflectance * valid, valid, labels)
            yield Piece(*arrays, scene.name, place, grid, row0 + row, col0 + col, scene.gsd, _bounds(scene, box))


def _grid(scene: Scene) -> tuple[str, int, int]:
    """The grid that a scene shares with others of its CRS and pixel size, and its first row and column there.

    Scenes need not lie on the same pixels: half a pixel does not matter to what is near. One without a CRS has a grid
    of its own.
    """
    if scene.crs is None:
        return scene.name, 0, 0
    a, b, _, d, e, _, *_ = scene.transform
    pixel = Affine(a, b, 0, d, e, 0)
    col, row = ~pixel @ (scene.transform @ (0, 0))
    return f"{scene.crs.to_string()} {a:.6g} {b:.6g} {d:.6g} {e:.6g}", round(row), round(col)


def _bounds(scene: Scene, box: Box) -> tuple[float, float, float, float] | None:
    """Where pixels lie on the earth; None where nobody knows, and across the antimeridian."""
    if scene.crs is None:
        return None
    corners = [scene.transform @ (col, row) for col in (box.col0, box.col1) for row in (box.row0, box.row1)]
    xs, ys = zip(*corners, strict=True)
    try:
        found = rasterio.warp.transform_bounds(scene.crs, "EPSG:4326", min(xs), min(ys), max(xs), max(ys))
    except RasterioError:
        return None
    return found if np.isfinite(found).all() and found[0] < found[2] else None


def _no_labels(box: Box) -> np.ndarray:
    return np.zeros((box.height, box.width), np.uint8)


def _cut(piece: Piece, chip: int) -> Iterator[Piece]:
    """Cut a piece into chips; what has no label is left out."""
    height, width = piece.labels.shape
    for row, col in itertools.product(range(0, height, chip), range(0, width, chip)):
        part = np.s_[..., row : row + chip, col : col + chip]
        if piece.labels[part].any():
            arrays = (piece.reflectance[part], piece.valid[part], piece.labels[part])
            yield Piece(*arrays, piece.scene, piece.place, piece.grid, row, col, piece.gsd)


class _LabelRaster:
    """A raster of labels, brought to the grid of a scene by its nearest pixels."""

    def __init__(self, path: Path, band: int, scene: Scene, labels: Labels, *, same_shape: bool = False) -> None:
        self._path, self._band, self._scene, self._labels = path, band, scene, labels
        self._same_shape = same_shape

    def __enter__(self) -> "_LabelRaster":
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
        parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        if parquet and source.layer is not None:
            raise SamplesError(f"{path} has no layers; leave layer = '{source.layer}' out of the recipe")
        try:
            frame = geopandas.read_parquet(path) if parquet else geopandas.read_file(path, layer=source.layer)
        except Exception as e:
            raise SamplesError(f"the labels {path} cannot be read: {e}") from e
        if not isinstance(frame, geopandas.GeoDataFrame):
            raise SamplesError(f"{path} is a table without shapes; name a file or a layer of polygons or points")
        if source.column not in frame.columns:
            columns = ", ".join(c for c in frame.columns if c != frame.geometry.name) or "none"
            raise SamplesError(f"{path} has no column '{source.column}' with classes; it has {columns}")
        if frame.crs is None:
            raise SamplesError(f"{path} has no coordinate reference system, so it cannot be laid over {scene.name}")
        frame = frame[~(frame.geometry.is_empty | frame.geometry.isna() | frame[source.column].isna())]
        if not len(frame):
            raise SamplesError(f"{path} holds no shape with a class")
        numbers = np.array([labels.number(v) for v in frame[source.column]])
        labels.check()
        shapes = placed(frame, str(path), scene.transform, scene.crs, (scene.height, scene.width))
        near = ~shapely.is_empty(shapes)  # the others were cut off
        if not near.any():
            raise SamplesError(f"{path} and {scene.name} do not overlap: all shapes lie elsewhere")
        _check_overlap(str(path), scene, scene.crs, tuple(shapely.total_bounds(shapes[near])))
        self._scene = scene
        self._classes = {k: geopandas.GeoSeries(shapes[near & (numbers == k)]) for k in np.unique(numbers[near])}

    def __enter__(self) -> "_Shapes":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def __call__(self, box: Box) -> np.ndarray:
        """Class numbers of a box, uint8 (rows, cols)."""
        transform = self._scene.transform @ Affine.translation(box.col0, box.row0)
        corners = [transform @ p for p in ((0, 0), (box.width, 0), (0, box.height), (box.width, box.height))]
        xs, ys = zip(*corners, strict=True)
        labels = np.zeros((box.height, box.width), np.uint8)
        claims = np.zeros_like(labels)
        for number, shapes in self._classes.items():
            near = shapes.cx[min(xs) : max(xs), min(ys) : max(ys)]
            if len(near):
                shape = (box.height, box.width)
                mine = rasterize(list(near), shape, transform=transform, default_value=1, dtype="uint8") > 0
                labels[mine] = number
                claims += mine
        return labels * (claims == 1)


def _check_overlap(path: str, scene: Scene, crs: Any, bounds: tuple[float, ...]) -> None:
    """Refuse labels that lie elsewhere than the scene."""
    if crs is None or scene.crs is None:
        raise SamplesError(f"{path} is on another grid than {scene.name}, and without a CRS it cannot be brought there")
    corners = [scene.transform @ p for p in ((0, 0), (scene.width, 0), (0, scene.height), (scene.width, scene.height))]
    xs, ys = zip(*corners, strict=True)
    try:
        left, bottom, right, top = rasterio.warp.transform_bounds(crs, scene.crs, *bounds)
    except (RasterioError, CPLE_BaseError) as e:
        raise SamplesError(f"{path} cannot be brought to the grid of {scene.name}: {e}") from e
    if left >= max(xs) or right <= min(xs) or bottom >= max(ys) or top <= min(ys):
        raise SamplesError(
            f"{path} and {scene.name} do not overlap: the labels lie within {left:.6g}, {bottom:.6g}, {right:.6g}, "
            f"{top:.6g} and the scene within {min(xs):.6g}, {min(ys):.6g}, {max(xs):.6g}, {max(ys):.6g} of its CRS"
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
