"""Sources of labelled pixels: packs of chips, folders of chips, scenes with label rasters, polygons or points."""

import itertools
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from landcover.bands import Choice
from landcover.errors import BandError, SamplesError
from landcover.grid import Box
from landcover.recipes import ChipsSource, ImageSource, PackSource, SceneSource, Source
from landcover.scene import Scene, open_scene
from landcover.specs import Legend
from landcover.training.labels import LabelRaster, Labels, ReadLabels, bounds_of, labels_of

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
    every = (p for p in source.images.rglob("*") if _is_raster(p))
    images = sorted(p for p in every if not any(x.startswith(".") for x in p.relative_to(source.images).parts))
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
        reference = LabelRaster(match[0], source.band, scene, labels, same_shape=True)
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
    for piece in _windows(scene, labels_of(source, scene, labels), chip, source.scene):
        found = True
        yield piece
    labels.check()
    if not found:
        raise SamplesError(f"{where} labels no valid pixel of {source.scene}; do both show the same place?")


def check_reference(source: SceneSource, bands: tuple[str, ...], legend: Legend) -> None:
    """Open a test scene and its labels, to find what is wrong with them before they are needed."""
    scene = _open(source.scene, source, bands)
    with labels_of(source, scene, Labels.of_source(source, legend, str(source.labels))):
        pass


def read_reference(source: SceneSource, scene: Scene, legend: Legend) -> np.ndarray:
    """All labels of a test scene at once, as class numbers, uint8 (height, width), 0 = ignore."""
    labels = Labels.of_source(source, legend, str(source.labels))
    with labels_of(source, scene, labels) as read:
        found = read(Box(0, scene.height, 0, scene.width))
    labels.check()
    return found


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
    gain = np.array([b.scale for b in scene.bands], np.float32)[:, None, None]
    bias = np.array([b.offset for b in scene.bands], np.float32)[:, None, None]
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
            reflectance = dn.astype(np.float32) * gain + bias
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
    try:
        found = rasterio.warp.transform_bounds(scene.crs, "EPSG:4326", *bounds_of(box, scene.transform))
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
