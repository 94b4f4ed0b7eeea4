"""A scene: the bands a model wants, on one grid, with their scaling; read in strips of rows."""

import datetime as dt
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Interleaving, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from landcover.bands import Band, Choice, check_place, counts_alpha, resolve_bands, share_type, view_of
from landcover.errors import PlaceError, SceneError
from landcover.grid import Box
from landcover.ground import ground_resolution
from landcover.products import Product, gdal_cache, gdal_options, header_errors, open_file, read_product
from landcover.specs import load_sensor

_AS_STORED = ("uint8", "int16", "uint16", "float32")
"""Data types that go to the network as they are; the others become float32."""


_FARTHEST_NORTH = 101
"""No latitude is beyond it, be it in degrees or in grads, nor the outermost pixels of a grid of the whole earth."""

_REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)")
"""GDAL's file systems that lie on a server."""


@dataclass(frozen=True)
class Scene:
    """A scene with its bands resolved; nothing is open.

    Attributes:
        name: what the user gave.
        bands: in the order the model wants them.
        height, width: in pixels, of the finest of the bands.
        transform, crs: as in rasterio; crs None if there is none.
        dtype: of the digital numbers as they are read.
        files: what its bands are called, and what these are read from, behind virtual rasters and masks beside it too.
        blocks: of each file, height and width of a block, width of the file, and bytes of a pixel in all its bands.
        spectral_alpha: a band flagged as alpha is a spectral band, not a mask.
        datetime: when it was taken, in UTC; None where the product does not tell it.
    """

    name: str
    bands: tuple[Band, ...]
    height: int
    width: int
    transform: Affine
    crs: CRS | None
    dtype: str
    files: tuple[str, ...]
    blocks: tuple[tuple[int, int, int, int], ...]
    spectral_alpha: bool = False
    datetime: dt.datetime | None = None

    @cached_property
    def gsd(self) -> float | None:
        """Side of a pixel in metres, at the middle of the scene; None without a CRS."""
        return ground_resolution(self.transform, self.crs, self.height, self.width)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, each once."""
        return tuple(dict.fromkeys(b.source.path for b in self.bands))

    def cache_bytes(self, width: int) -> int:
        """Bound of GDAL's cache while rows of `width` pixels are read: the blocks they lie in, and half of it again."""
        held = sum(rows * min(full, width + 2 * cols) * pixel for rows, cols, full, pixel in self.blocks)
        return max(held * 3 // 2, 32 << 20)

    @contextmanager
    def open(self, width: int) -> Iterator["SceneReader"]:
        """Open the files, to be read from top to bottom in rows of `width` pixels."""
        options = gdal_options()
        if any(_REMOTE.search(path) for path in self.paths):
            options["GDAL_NUM_THREADS"] = "1"  # with more, GDAL takes stale bytes for those that a server did not send
            options["CPL_VSIL_CURL_NON_CACHED"] = "/vsi"  # so that a file opened anew does not find half an answer
        with (
            rasterio.Env(**options),
            gdal_cache(self.cache_bytes(width)),
            closing(SceneReader(self)) as reader,
        ):
            yield reader

    def open_file(self, path: str, stack: ExitStack) -> "OnGrid":
        """Open one file for as long as `stack` lasts: the file itself, or views of it on the scene's grid."""
        with header_errors(path):
            file = open_file(path, stack)
            return OnGrid(self._on_grid(file, stack), self._views_of_bands(file, stack))

    def _views_of_bands(self, file: rasterio.DatasetReader, stack: ExitStack) -> dict[int, WarpedVRT]:
        """A view of each band that is wanted of a coarser file of several that may miss pixels; else nothing.

        In a view of them all, GDAL takes a pixel for missing only where all bands are, by one nodata value, or where a
        band flagged as alpha is 0, be it near infrared. A true alpha band is heeded in such a view only.
        """
        wanted = {b.source.index: b.nodata for b in self.bands if b.source.path == file.name}
        flagged = ColorInterp.alpha in file.colorinterp
        masked = flagged and not self.spectral_alpha
        whole = not flagged and all(nodata is None for nodata in wanted.values())
        if file.count == 1 or masked or whole or self._is_on_grid(file):
            return {}
        return {
            i: self._view(open_file(view_of([(file, i, nodata)]), stack), nodata, stack) for i, nodata in wanted.items()
        }

    def _on_grid(self, file: rasterio.DatasetReader, stack: ExitStack) -> rasterio.DatasetReader | WarpedVRT:
        """The file itself, or a view of it on the scene's grid."""
        if self._is_on_grid(file):
            return file
        nodata = next(b.nodata for b in self.bands if b.source.path == file.name)
        if MaskFlags.per_dataset in file.mask_flag_enums[0] and MaskFlags.alpha not in file.mask_flag_enums[0]:
            raise SceneError(
                f"{file.name} is coarser than the other bands and has a mask of its own, which cannot be brought to "
                "their grid; mark its missing pixels with a nodata value instead (gdal_translate -a_nodata)"
            )
        return self._view(file, nodata, stack)

    def _is_on_grid(self, file: rasterio.DatasetReader) -> bool:
        same_place = file.transform.almost_equals(self.transform) and file.crs == self.crs
        return same_place and file.shape == (self.height, self.width)

    def _view(self, file: rasterio.DatasetReader, nodata: float | None, stack: ExitStack) -> WarpedVRT:
        view = WarpedVRT(
            file,
            crs=self.crs,
            transform=self.transform,
            height=self.height,
            width=self.width,
            resampling=Resampling.bilinear,
            tolerance=1e-6,  # of a pixel: as good as exact, whatever strip is asked for
            src_nodata=nodata,
            nodata=nodata,
        )
        return stack.enter_context(view)


@dataclass(frozen=True)
class OnGrid:
    """An open file on the grid of a scene.

    Attributes:
        file: itself, or a view of all its bands.
        views: of single bands, by their numbers, where the file has to be read through these.
    """

    file: rasterio.DatasetReader | WarpedVRT
    views: dict[int, WarpedVRT]

    def read(self, bands: list[int], window: Window, out: np.ndarray) -> None:
        """Read bands into `out`; float64 beyond float32 becomes infinite, and so nodata."""
        if self.views:
            for band, pixels in zip(bands, out, strict=True):
                self.views[band].read(1, window=window, out=pixels)
        elif share_type(self.file, bands):
            self.file.read(bands, window=window, out=out)
        else:
            for band, pixels in zip(bands, out, strict=True):
                self.file.read(band, window=window, out=pixels)


class SceneReader:
    """The open files of a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._stacks = {path: ExitStack() for path in scene.paths}
        with ExitStack() as opened:
            opened.callback(self.close)
            self._files = {path: scene.open_file(path, stack) for path, stack in self._stacks.items()}
            opened.pop_all()
        files = {path: each.file for path, each in self._files.items()}
        self._covered = [_covered(scene, file) for file in files.values() if isinstance(file, WarpedVRT)]
        self._may_be_sparse = all(_tells_its_blocks(path, file) for path, file in files.items()) and all(
            b.nodata == 0 or files[b.source.path].nodata is not None for b in scene.bands
        )

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Read the pixels of a box: dn and valid, as in `read_into`."""
        dn = np.zeros((len(self._scene.bands), box.height, box.width), self._scene.dtype)
        valid = np.zeros((box.height, box.width), bool)
        self.read_into(box, dn, valid)
        return dn, valid

    def read_into(self, box: Box, dn: np.ndarray, valid: np.ndarray) -> None:
        """Read the pixels of a box into arrays.

        Where a GeoTIFF holds no block at all nothing is read, and `dn` is left as it is.

        Args:
            box: the pixels.
            dn: (bands, rows, cols) of the scene's dtype, finite afterwards.
            valid: (rows, cols) bool, True = usable.

        Raises:
            SceneError: the file is damaged or cannot be reached.
        """
        valid[:] = False
        for part in self._stored(box):
            cols = slice(part.col0 - box.col0, part.col1 - box.col0)
            valid[:, cols] = self._read(part, dn[:, :, cols])

    def _stored(self, box: Box) -> Iterator[Box]:
        """The parts of a box, in whole columns, in which blocks are stored; all of it where that is not known."""
        if not self._may_be_sparse:
            yield box
            return
        stored = np.zeros(box.width, bool)
        for path, each in self._files.items():
            file = each.file
            used = {b.source.index for b in self._scene.bands if b.source.path == path}
            for band in used if file.interleaving == Interleaving.band else list(used)[:1]:
                tall, wide = file.block_shapes[band - 1]
                for x in range(box.col0 // wide, -(-box.col1 // wide)):
                    across = slice(max(x * wide - box.col0, 0), max((x + 1) * wide - box.col0, 0))
                    for y in range(box.row0 // tall, -(-box.row1 // tall)):
                        if file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band) is not None:
                            stored[across] = True
        edges = np.flatnonzero(np.diff(stored, prepend=False, append=False)) + box.col0
        for col0, col1 in edges.reshape(-1, 2).tolist():
            yield Box(box.row0, box.row1, col0, col1)

    def _read(self, box: Box, dn: np.ndarray) -> np.ndarray:
        """Read the pixels of a box into dn (bands, rows, cols); returns which are usable, (rows, cols)."""
        scene, window = self._scene, Window(box.col0, box.row0, box.width, box.height)
        masked = np.zeros(dn.shape[1:], bool)
        for path in self._files:
            places = [i for i, b in enumerate(scene.bands) if b.source.path == path]
            indexes = [scene.bands[i].source.index for i in places]
            whole = places == list(range(len(dn)))
            pixels = dn if whole else np.empty((len(places), *dn.shape[1:]), dn.dtype)
            hidden = self._read_file(path, indexes, window, pixels)
            if not whole:
                dn[places] = pixels
            if hidden is not None:
                masked |= hidden
        masked |= self._missing(dn)
        for rows, cols in self._covered:
            masked |= ~np.outer(rows[box.row0 : box.row1], cols[box.col0 : box.col1])
        return ~masked

    def _read_file(self, path: str, bands: list[int], window: Window, out: np.ndarray) -> np.ndarray | None:
        """Read bands of one file into `out`; returns what masks all of them, True = masked, if there is such a thing.

        A file on a server is opened anew and asked again after a while. GDAL by itself gives up at once when it asks
        for several ranges, and what it could not decode stays in its cache as if it were pixels.
        """
        options, remote = gdal_options(), _REMOTE.search(path)
        again = int(options["GDAL_HTTP_MAX_RETRY"]) if remote else 0
        attempt = 0
        while True:
            try:
                if attempt:
                    self._stacks[path].close()
                    self._files[path] = self._scene.open_file(path, self._stacks[path])
                self._files[path].read(bands, window, out)
                return _read_mask(self._files[path].file, bands, window, self._scene.spectral_alpha)
            except (RasterioError, CPLE_BaseError, SceneError) as e:
                if attempt == again:
                    rows = f"{window.row_off}–{window.row_off + window.height}"
                    reason = "its server may be out of reach" if remote else "the file may be cut short"
                    raise SceneError(f"{path} cannot be read at rows {rows}: {e.__cause__ or e}; {reason}") from e
            time.sleep(float(options["GDAL_HTTP_RETRY_DELAY"]) * 2**attempt)
            attempt += 1

    def _missing(self, dn: np.ndarray) -> np.ndarray:
        """Pixels at their nodata value, or not finite (and those are set to 0); (rows, cols), True = missing.

        A band at its nodata value makes the pixel nodata, but for the value 0, which can be a real, dark measurement:
        there all bands that are read have to be 0.
        """
        missing = np.zeros(dn.shape[1:], bool)
        if any(b.nodata == 0 for b in self._scene.bands):
            missing |= ~dn.any(axis=0)
        for pixels, band in zip(dn, self._scene.bands, strict=True):
            if band.nodata not in (None, 0) and not np.isnan(band.nodata):
                with np.errstate(over="ignore"):  # of float64 beyond float32, whose pixels are infinite as read
                    missing |= pixels == band.nodata
        if dn.dtype.kind == "f":
            finite = np.isfinite(dn)
            missing |= ~finite.all(axis=0)
            dn[~finite] = 0
        return missing


def _tells_its_blocks(path: str, file: rasterio.DatasetReader | WarpedVRT) -> bool:
    """Whether it can be told, and trusted, which blocks of a file were written.

    GDAL shows some strips as more blocks than there are, and what a server did not send as blocks that are not there.
    """
    tiff = isinstance(file, rasterio.DatasetReader) and file.driver in ("GTiff", "COG")
    return tiff and bool(file.profile["tiled"]) and not _REMOTE.search(path)


def open_scene(
    source: str, wanted: tuple[str, ...], choice: Choice | None = None, *, allow_no_crs: bool = False
) -> Scene:
    """Find the bands a model wants in a scene, and how to scale them; reads no pixels but a few for a check.

    Args:
        source: any raster GDAL reads, a folder of band files, or a STAC item.
        wanted: common names, in the model's order.
        choice: what the user says about bands and scaling; it goes before everything else.
        allow_no_crs: accept a scene that is not placed on the earth.

    Raises:
        SceneError: the scene cannot be opened, or is not placed on the earth.
        BandError: a band or its scaling cannot be told.
    """
    choice = choice or Choice()
    product = read_product(source)
    bands = resolve_bands(product, wanted, choice)
    with rasterio.Env(**gdal_options()), header_errors(source), ExitStack() as stack:
        files = {path: open_file(path, stack) for path in {b.source.path for b in bands}}
        finest = min((files[b.source.path] for b in bands), key=lambda f: abs(f.transform.determinant))
        if not allow_no_crs and (lacking := without_place(source, finest)):
            raise PlaceError(lacking)
        for band in bands:
            check_place(band, files[band.source.path])
        _check_same_place(files, finest)
        dtype = np.result_type(*(files[b.source.path].dtypes[b.source.index - 1] for b in bands)).name
        return Scene(
            name=source,
            bands=tuple(_with_file_nodata(b, files[b.source.path]) for b in bands),
            height=finest.height,
            width=finest.width,
            transform=finest.transform,
            crs=finest.crs,
            dtype=dtype if dtype in _AS_STORED else "float32",
            files=tuple(dict.fromkeys(n for path in dict.fromkeys(b.source.path for b in bands) for n in _files(path))),
            blocks=tuple(_blocks(f) for f in files.values()),
            spectral_alpha=_alpha_is_spectral(product, bands, files, choice),
            datetime=product.datetime,
        )


def without_place(source: str, file: rasterio.DatasetReader) -> str:
    """Why a scene cannot be placed on the earth, and what to do; "" if it can be."""
    points = "control points" if file.gcps[0] else "rational polynomials (RPCs)" if file.rpcs else ""
    unplaced = file.transform.is_identity or not abs(file.transform.determinant) > 0  # GDAL's word for none; or NaN
    if points and (file.crs is None or unplaced):
        how = "" if file.gcps[0] else "-rpc "
        return (
            f"{source} is placed on the earth by {points}, not by a grid; warp it first "
            f"(gdalwarp {how}-t_srs EPSG:… {source} warped.tif)"
        )
    if file.crs is None:
        return (
            f"{source} has no coordinate reference system, so its map could not be placed on the earth; "
            "assign one (rio edit-info --crs EPSG:… FILE), or add --allow-no-crs"
        )
    if unplaced:
        return (
            f"{source} has a coordinate reference system, but no geotransform that says where in it the pixels lie; "
            "assign one (rio edit-info --transform …, or a world file beside it), or add --allow-no-crs"
        )
    latitude = max(abs((file.transform @ (col, row))[1]) for col in (0, file.width) for row in (0, file.height))
    if file.crs.is_geographic and latitude > _FARTHEST_NORTH:
        return (
            f"{source} is in {file.crs.to_string()}, in degrees, but reaches to {latitude:,.0f}, where no latitude is; "
            "assign the CRS that its coordinates are in (rio edit-info --crs EPSG:… FILE)"
        )
    return ""


def _blocks(file: rasterio.DatasetReader) -> tuple[int, int, int, int]:
    """Height and width of a block of a file, the file's width, and bytes of a pixel in all its bands."""
    rows, cols = (max(sizes) for sizes in zip(*file.block_shapes, strict=True))
    return rows, cols, file.width, sum(np.dtype(dtype).itemsize for dtype in file.dtypes)


def _with_file_nodata(band: Band, file: rasterio.DatasetReader) -> Band:
    declared = file.nodatavals[band.source.index - 1]
    return band if declared is None else replace(band, nodata=declared)


def _check_same_place(files: dict[str, rasterio.DatasetReader], finest: rasterio.DatasetReader) -> None:
    """Refuse bands that do not show the same piece of ground, within one of the coarser pixels."""
    for path, file in files.items():
        if file.crs != finest.crs:
            crs, other = (f.crs.to_string() if f.crs else "no CRS" for f in (file, finest))
            raise PlaceError(f"{path} is in {crs} and {finest.name} in {other}; warp one to the CRS of the other first")
        tolerance = 1.01 * max(map(abs, (*file.res, *finest.res)))
        apart = max(abs(a - b) for a, b in zip(file.bounds, finest.bounds, strict=True))
        if apart > tolerance:
            raise PlaceError(
                f"{path} and {finest.name} do not cover the same ground ({file.bounds} against {finest.bounds}); "
                "the bands of a scene must share their outline"
            )


def _covered(scene: Scene, view: WarpedVRT) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the scene whose pixel centres lie on a coarser file; bool (height,), (width,)."""
    file = view.src_dataset
    corners = [~scene.transform @ (file.transform @ point) for point in ((0, 0), (file.width, file.height))]
    (col0, col1), (row0, row1) = (sorted(values) for values in zip(*corners, strict=True))
    rows, cols = np.arange(scene.height) + 0.5, np.arange(scene.width) + 0.5
    return (rows > row0) & (rows < row1), (cols > col0) & (cols < col1)


def _files(path: str) -> list[str]:
    """A raster, as it is called, and what it is read from, behind virtual rasters too; of a server, its address.

    Statistics and overviews, which other programs write beside it, are none of it.
    """
    found: dict[str, None] = {}
    left = [path]
    while left:
        name = left.pop()
        if name not in found and not _REMOTE.search(name) and (name == path or name.lower().endswith(".vrt")):
            with ExitStack() as stack:
                left += open_file(name, stack).files
        found[name] = None
    return [name for name in found if not name.endswith((".aux.xml", ".ovr"))]


def scene_files(source: str) -> list[Path]:
    """The files that a scene is made of, those of bands that nobody wants too, but none of a server."""
    return [Path(file) for path in {band.path for band in read_product(source).bands} for file in _files(path)]


def _alpha_is_spectral(
    product: Product, bands: tuple[Band, ...], files: dict[str, rasterio.DatasetReader], choice: Choice
) -> bool:
    """True where a band flagged as alpha is wanted, or named, or where the sensor has one in usual files."""
    name = choice.sensor or product.sensor
    sensor = load_sensor(name) if name is not None else None
    named = [
        b for b in product.bands if b.path in files and (b.common_name or (sensor and sensor.common_name(b.label)))
    ]
    sources = (*named, *(band.source for band in bands))
    if any(files[b.path].colorinterp[b.index - 1 : b.index] == (ColorInterp.alpha,) for b in sources):
        return True
    return sensor is not None and counts_alpha(product, sensor)


def _read_mask(file: rasterio.DatasetReader | WarpedVRT, bands: list[int], window: Window, spectral_alpha: bool) -> Any:
    """What masks all bands of a file: an alpha band, an internal mask, a mask file; True = masked, or None.

    A spectral band that is merely flagged as alpha, as near infrared is in NAIP files, is not a mask.
    """
    flags = file.mask_flag_enums[bands[0] - 1]
    masks = []
    alpha = [
        i for i, c in zip(file.indexes, file.colorinterp, strict=True) if c == ColorInterp.alpha and i not in bands
    ]
    if alpha and not spectral_alpha:
        masks.append(file.read(alpha[0], window=window) == 0)
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masks.append(file.read_masks(bands[0], window=window) == 0)
    return np.logical_or.reduce(masks) if masks else None
