"""Many class maps as one: a virtual raster that refers to them, or a single file into which they are copied."""

import math
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform, transform_bounds
from rasterio.windows import Window

from landcover import __version__
from landcover.classmap import CONFIDENCE_NODATA, MAP_NODATA, open_raster, read_legend
from landcover.cog import BLOCK, Layer, palette
from landcover.errors import ConfigError, MapError, OutputError, StaleError
from landcover.grid import Box
from landcover.journal import Run, open_run
from landcover.outputs import check_destination, disk_errors, publish_text
from landcover.provenance import PREFIX, tags
from landcover.specs import Legend

_PIECE = 16384
"""Columns of BLOCK rows that are put together at a time; memory does not grow with the mosaic beyond them."""

_LARGEST = 2**31 - 1
"""Rows or columns that a raster can have."""

_TOLERANCE = 0.01
"""Parts of a pixel by which a pixel brought to another CRS may be misplaced; exact places take ten times as long."""

_ALIGNED = 1e-3
"""Parts of a pixel by which grids may be apart and be taken for the same."""


@dataclass(frozen=True)
class _Map:
    """A class map to be put into a mosaic.

    Attributes:
        path: its file.
        crs, transform, height, width: its grid; the CRS is None where it has no place on the earth.
        block: rows and columns of a block of the file.
        model: name and checksum of what made it, as its tags tell.
    """

    path: Path
    crs: CRS
    transform: Affine
    height: int
    width: int
    block: tuple[int, int]
    model: tuple[str | None, str | None]

    @property
    def flaw(self) -> str:
        """Why a virtual raster cannot show it, as what follows its name; "" if it can."""
        if self.crs is None:
            return "has no CRS"
        if self.transform.b or self.transform.d:
            return "is rotated"
        sides = ["south at its top"] * (self.transform.e > 0) + ["east at its left"] * (self.transform.a < 0)
        return f"has {' and '.join(sides)}" if sides else ""

    @property
    def resolution(self) -> tuple[float, float]:
        return float(f"{self.transform.a:.9g}"), float(f"{self.transform.e:.9g}")

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least x, least y, greatest x and greatest y of its corners."""
        corners = [self.transform @ c for c in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class _Grid:
    """The pixels of a mosaic: north up, its rows from top to bottom."""

    crs: CRS
    transform: Affine
    height: int
    width: int

    @cached_property
    def to_pixels(self) -> Affine:
        return ~self.transform

    def place(self, bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """First and last row, first and last column of bounds in the grid's CRS, in parts of pixels."""
        col0, row0 = self.to_pixels @ (bounds[0], bounds[3])
        col1, row1 = self.to_pixels @ (bounds[2], bounds[1])
        return row0, row1, col0, col1

    def aligned(self, each: _Map) -> Box | None:
        """Where a map's pixels are those of the grid, its box in it; else None."""
        if each.crs != self.crs or each.flaw:
            return None
        row0, row1, col0, col1 = self.place(each.bounds)
        row, col = round(row0), round(col0)
        apart = row0 - row, row1 - row - each.height, col0 - col, col1 - col - each.width
        return Box(row, row + each.height, col, col + each.width) if max(map(abs, apart)) < _ALIGNED else None

    def box(self, each: _Map) -> Box:
        """The pixels of the grid that a map may touch."""
        if box := self.aligned(each):
            return box
        row0, row1, col0, col1 = self.place(_bounds_in(self.crs, each))
        rows = max(0, math.floor(row0) - 1), min(self.height, math.ceil(row1) + 1)
        return Box(*rows, max(0, math.floor(col0) - 1), min(self.width, math.ceil(col1) + 1))


def write_vrt(maps: Sequence[Path], out: Path) -> tuple[list[Path], dict[Path, str]]:
    """Write virtual rasters that show many maps as one, later ones on top.

    Those that this function wrote under the same name before, for other CRSs too, are replaced or removed.

    Args:
        maps: class maps of one legend, to which it refers by relative paths; those that have no CRS or are not north up
            are left out.
        out: the virtual raster, .vrt. Where the maps have several CRSs there is one for each, with the CRS in its name.

    Returns:
        The files written, and what is the matter with each map that is left out.

    Raises:
        MapError: a map cannot be read, legends differ, or all would be left out.
        OutputError: a file cannot be written.
    """
    if out.suffix.lower() != ".vrt":
        raise OutputError(f"{out} is not the name of a virtual raster; let it end in .vrt")
    check_destination(out, overwrite=True)
    read, legend = _read_maps(maps)
    left_out = {each.path: each.flaw for each in read if each.flaw}
    by_crs: dict[str, list[_Map]] = {}
    for each in read:
        if not each.flaw:
            by_crs.setdefault(each.crs.to_wkt(), []).append(each)
    if not by_crs:
        raise MapError(f"{read[0].path} {read[0].flaw}; a virtual raster needs a map that is north up and has a CRS")
    written = []
    for number, group in enumerate(by_crs.values(), 1):
        authority = group[0].crs.to_authority()
        name = "".join(authority) if authority else f"CRS{number}"
        path = out if len(by_crs) == 1 else out.with_name(f"{out.stem}_{name}{out.suffix}")
        publish_text(path, _vrt(group, _grid(group, group[0].crs), legend, path))
        written.append(path)
    _drop_others(out, written)
    return written, left_out


def _drop_others(out: Path, written: list[Path]) -> None:
    """Remove virtual rasters of the same name, or of one with a CRS in it, that were written for other maps."""
    of_crs = re.compile(rf"{re.escape(out.stem)}_[A-Z]+\d+")
    with disk_errors(out):
        for old in out.parent.glob(f"*{out.suffix}"):
            if old not in written and (old == out or of_crs.fullmatch(old.stem)) and _is_ours(old):
                old.unlink()


def _is_ours(path: Path) -> bool:
    """Whether a virtual raster is one that `write_vrt` has written."""
    return path.is_file() and f'"{PREFIX}MOSAIC"'.encode() in path.read_bytes()


@dataclass(frozen=True)
class Mosaic:
    """A mosaic to be written.

    Attributes:
        out: the file.
        maps: from the lowest to the topmost.
        confidences: of each map, or None where the topmost wins.
        legend: of all of them.
        grid: its pixels.
    """

    out: Path
    maps: tuple[_Map, ...]
    confidences: tuple[Path, ...] | None
    legend: Legend
    grid: _Grid

    @property
    def pixels(self) -> int:
        return self.grid.height * self.grid.width

    @cached_property
    def boxes(self) -> list[Box]:
        """The pixels that each map may touch."""
        return [self.grid.box(each) for each in self.maps]

    @property
    def overlaps(self) -> bool:
        """Whether pixels may be of more than one map."""
        row0, row1, col0, col1 = np.array([(b.row0, b.row1, b.col0, b.col1) for b in self.boxes]).T
        within = shapely.box(col0 + 0.25, row0 + 0.25, col1 - 0.25, row1 - 0.25)  # those that only touch are apart
        tree = shapely.STRtree(within)
        return any(len(tree.query(each)) > 1 for each in within)

    @property
    def layer(self) -> Layer:
        grid = self.grid
        model, sha256 = _common(self.maps)
        return Layer(
            self.out,
            grid.height,
            grid.width,
            grid.transform,
            grid.crs,
            "uint8",
            MAP_NODATA,
            ("class",),
            legend=self.legend,
            overviews="mode",
            tags=tags(
                model=model,
                model_sha256=sha256,
                mosaic={"maps": len(self.maps), "on top": "confidence" if self.confidences else "order"},
                legend=self.legend.model_dump_json(),
            ),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What its pixels depend on, as plain values."""
        files = [m.path for m in self.maps] + list(self.confidences or ())
        stats = [path.stat() for path in files]
        grid = self.grid
        return {
            "version": __version__,
            "maps": [[str(p), s.st_size, s.st_mtime_ns] for p, s in zip(files, stats, strict=True)],
            "grid": [grid.crs.to_wkt(), list(grid.transform.to_gdal()), grid.height, grid.width],
        }


def plan_mosaic(
    maps: Sequence[Path], out: Path, *, confidences: Sequence[Path] | None = None, crs: str | CRS | None = None
) -> Mosaic:
    """Check maps and lay out the mosaic of them.

    Args:
        maps: class maps of one legend. Those on the mosaic's grid are copied exactly, the others resampled to the
            nearest pixel.
        out: the GeoTIFF.
        confidences: the confidence of each map; where maps overlap the most confident wins, and the later one of
            equals. None for the later one to win throughout.
        crs: of the mosaic; None for that of most of the maps.

    Raises:
        MapError: a map cannot be read or has no CRS, legends differ, or they span too much.
        ConfigError: the CRS is none, or a confidence is missing.
        OutputError: the output is one of the maps, or no GeoTIFF.
    """
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{out}: mosaics are written as GeoTIFF; give a name that ends in .tif")
    if confidences is not None and len(confidences) != len(maps):
        raise ConfigError(f"there are {len(maps)} maps but {len(confidences)} confidences; give one for each map")
    inputs = {path.resolve() for path in (*maps, *(confidences or ()))}
    if out.resolve() in inputs:
        raise OutputError(f"{out} is one of the maps; choose another name for the mosaic")
    read, legend = _read_maps(maps)
    if nowhere := next((m.path for m in read if m.crs is None), None):
        raise MapError(f"{nowhere} has no CRS, so it has no place in a mosaic; leave it out")
    place = _most_common([m.crs for m in read]) if crs is None else _crs(crs)
    return Mosaic(out, tuple(read), tuple(confidences) if confidences else None, legend, _grid(read, place))


def fill_mosaic(mosaic: Mosaic, *, overwrite: bool = False) -> Generator[int, None, None]:
    """Write a mosaic as one cloud-optimised GeoTIFF; yields the pixels done so far, of `Mosaic.pixels`.

    What is finished when it is stopped is kept, and the next run with the same maps goes on from it.

    Args:
        mosaic: from `plan_mosaic`.
        overwrite: replace its file.

    Raises:
        MapError: a map cannot be read.
        OutputError: the file exists, or cannot be written.
    """
    grid, boxes = mosaic.grid, mosaic.boxes
    with _open_run(mosaic, overwrite) as run:
        start = run.progress.row if run.progress.panel == 0 else grid.height
        yield start * grid.width
        for row0 in range(start, grid.height, BLOCK):
            rows = Box(row0, min(row0 + BLOCK, grid.height), 0, grid.width)
            near = [i for i, box in enumerate(boxes) if _meet(box, rows)]
            if not near:  # the file is left empty
                yield rows.row1 * grid.width
            for col0 in range(0, grid.width if near else 0, _PIECE):
                piece = Box(rows.row0, rows.row1, col0, min(col0 + _PIECE, grid.width))
                here = [i for i in near if _meet(boxes[i], piece)]
                if here:
                    ids = _ids(mosaic, piece, here, boxes)
                    count = int(np.count_nonzero(ids))
                    run.write(row0, col0, ids.shape, {"map": ids[None]} if count else {}, count)
                yield row0 * grid.width + rows.height * piece.col1
            run.mark(0, rows.row1) if rows.row1 < grid.height else run.mark(1, 0)


@contextmanager
def _open_run(mosaic: Mosaic, overwrite: bool) -> Iterator[Run]:
    """Go on from what a stopped run of the same maps has finished, or begin anew if it was of others."""
    how: dict[str, Any] = {"facts": mosaic.facts, "overwrite": overwrite}
    with ExitStack() as stack:
        try:
            run = stack.enter_context(open_run({"map": mosaic.layer}, **how))
        except StaleError:
            run = stack.enter_context(open_run({"map": mosaic.layer}, resume=False, **how))
        yield run


def _ids(mosaic: Mosaic, piece: Box, near: list[int], boxes: list[Box]) -> np.ndarray:
    """The classes of a piece, uint8 (rows, cols), from the maps that may touch it."""
    ids = np.full((piece.height, piece.width), MAP_NODATA, np.uint8)
    best = np.full(ids.shape, -1, np.int16) if mosaic.confidences and near else None
    for i in near:
        part = _clipped(boxes[i], piece)
        at = (
            slice(part.row0 - piece.row0, part.row1 - piece.row0),
            slice(part.col0 - piece.col0, part.col1 - piece.col0),
        )
        each = mosaic.maps[i]
        found = _read(each, each.path, mosaic.grid, part, MAP_NODATA)
        wins = found != MAP_NODATA
        if best is not None and mosaic.confidences is not None:
            percent = _read(each, mosaic.confidences[i], mosaic.grid, part, CONFIDENCE_NODATA).astype(np.int16)
            percent[percent == CONFIDENCE_NODATA] = 0
            wins &= percent >= best[at]
            best[at][wins] = percent[wins]
        ids[at][wins] = found[wins]
    return ids


def _read(each: _Map, path: Path, grid: _Grid, part: Box, nodata: int) -> np.ndarray:
    """The pixels of a map, or of its confidence, that lie in a part of the grid; uint8 (rows, cols)."""
    with open_raster(path) as file:
        if file.shape != (each.height, each.width) or file.count != 1 or file.dtypes[0] != "uint8":
            raise MapError(f"{path} does not have the pixels of {each.path}; give the confidence that belongs to it")
        try:
            if box := grid.aligned(each):
                window = Window(part.col0 - box.col0, part.row0 - box.row0, part.width, part.height)
                return file.read(1, window=window)
            place = grid.transform @ Affine.translation(part.col0, part.row0)
            how = {"resampling": Resampling.nearest, "src_nodata": nodata, "nodata": nodata, "tolerance": _TOLERANCE}
            with WarpedVRT(file, crs=grid.crs, transform=place, height=part.height, width=part.width, **how) as view:
                return view.read(1)
        except RasterioError as e:
            raise MapError(f"{path} cannot be read: {e.__cause__ or e}; the file may be cut short") from e


def _read_maps(maps: Sequence[Path]) -> tuple[list[_Map], Legend]:
    """The grids of maps, and the legend they share."""
    if not maps:
        raise MapError("a mosaic of no maps cannot be made; give at least one")
    read: list[_Map] = []
    legends: list[Legend] = []
    for path in maps:
        with open_raster(path) as file:
            legend = read_legend(file)
            made = file.tags()
            model = made.get(f"{PREFIX}MODEL"), made.get(f"{PREFIX}MODEL_SHA256")
            grid = file.crs, file.transform, file.height, file.width
            read.append(_Map(path, *grid, file.block_shapes[0], model))
        if legends and legend != legends[0]:
            raise MapError(
                f"{path} has the legend {_told(legend)}, but {maps[0]} has {_told(legends[0])}; "
                "make a mosaic of maps of one legend"
            )
        legends[:1] = [legend]
    return read, legends[0]


def _told(legend: Legend) -> str:
    return f"'{legend.name}' ({', '.join(f'{c.id} {c.name}' for c in legend.classes[:8])})"


def _grid(maps: Sequence[_Map], crs: CRS) -> _Grid:
    """The grid, by size and place of its pixels, of most of the maps that lie in a CRS, as large as all of them."""
    own = [m for m in maps if m.crs == crs and not m.flaw]
    a, e = _most_common([m.resolution for m in own]) if own else _new_resolution(maps[0], crs)
    same = [m.transform for m in own if m.resolution == (a, e)] or [Affine(a, 0, 0, 0, e, 0)]
    shifts = [[round(start / step % 1, 3) % 1 for start, step in ((t.c, t.a), (t.f, t.e))] for t in same]
    first = same[shifts.index(_most_common(shifts))]
    bounds = np.array([_bounds_in(crs, m) for m in maps])
    left, bottom = bounds[:, :2].min(axis=0).tolist()
    right, top = bounds[:, 2:].max(axis=0).tolist()
    col0, row0 = _floor((left - first.c) / first.a), _floor((top - first.f) / first.e)
    col1, row1 = -_floor((first.c - right) / first.a), -_floor((first.f - bottom) / first.e)
    if max(col1 - col0, row1 - row0) > _LARGEST:
        raise MapError(f"the maps span {row1 - row0} × {col1 - col0} pixels, more than a raster can have; take fewer")
    return _Grid(crs, first @ Affine.translation(col0, row0), row1 - row0, col1 - col0)


def _new_resolution(each: _Map, crs: CRS) -> tuple[float, float]:
    """The resolution of a map in a CRS that is not its own."""
    transform, _, _ = calculate_default_transform(each.crs, crs, each.width, each.height, *each.bounds)
    return transform.a, transform.e


def _bounds_in(crs: CRS, each: _Map) -> tuple[float, float, float, float]:
    """The bounds of a map in a CRS.

    Raises:
        MapError: it has no bounds there.
    """
    if each.crs == crs:
        return each.bounds
    try:
        bounds = transform_bounds(each.crs, crs, *each.bounds, densify_pts=21)
    except (CRSError, RasterioError) as e:
        raise MapError(f"{each.path} cannot be brought to {crs.to_string()[:60]}: {e}; choose another CRS") from e
    if not np.isfinite(bounds).all() or bounds[0] > bounds[2]:
        raise MapError(
            f"{each.path} lies across the edge of {crs.to_string()[:60]}; "
            "choose a CRS in which all maps are in one piece"
        )
    return bounds


def _vrt(maps: Sequence[_Map], grid: _Grid, legend: Legend, out: Path) -> str:
    """Describe a mosaic to GDAL."""
    model, sha256 = _common(maps)
    said = tags(model=model, model_sha256=sha256, mosaic={"maps": len(maps)}, legend=legend.model_dump_json())
    metadata = "".join(f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in said.items())
    sources = "".join(_source(each, grid, out) for each in maps)
    return (
        f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">\n'
        f"  <SRS>{escape(grid.crs.to_wkt())}</SRS>\n"
        f"  <GeoTransform>{','.join(map(repr, grid.transform.to_gdal()))}</GeoTransform>\n"
        f"  <Metadata>{metadata}</Metadata>\n"
        f'  <VRTRasterBand dataType="Byte" band="1">\n'
        f"    <Description>class</Description>\n"
        f"    <NoDataValue>{MAP_NODATA}</NoDataValue>{palette(legend)}{sources}\n"
        "  </VRTRasterBand>\n</VRTDataset>\n"
    )


def _source(each: _Map, grid: _Grid, out: Path) -> str:
    """A map in a virtual raster: what is nodata in it lets those below be seen."""
    if box := grid.aligned(each):
        place = f'xOff="{box.col0}" yOff="{box.row0}" xSize="{box.width}" ySize="{box.height}"'
    else:
        row0, row1, col0, col1 = grid.place(each.bounds)
        place = f'xOff="{col0!r}" yOff="{row0!r}" xSize="{col1 - col0!r}" ySize="{row1 - row0!r}"'
    rows, cols = each.block
    size = f'RasterXSize="{each.width}" RasterYSize="{each.height}" DataType="Byte"'
    name = os.path.relpath(each.path.absolute(), out.absolute().parent).replace(os.sep, "/")
    return f"""
    <ComplexSource>
      <SourceFilename relativeToVRT="1">{escape(name)}</SourceFilename>
      <SourceBand>1</SourceBand>
      <SourceProperties {size} BlockXSize="{cols}" BlockYSize="{rows}"/>
      <SrcRect xOff="0" yOff="0" xSize="{each.width}" ySize="{each.height}"/>
      <DstRect {place}/>
      <NODATA>{MAP_NODATA}</NODATA>
    </ComplexSource>"""


def _common(maps: Sequence[_Map]) -> tuple[str | None, str | None]:
    """Name and checksum of the model that made all of the maps, or None."""
    models = {each.model for each in maps}
    return models.pop() if len(models) == 1 else (None, None)


def _most_common(values: list[Any]) -> Any:
    """The most frequent value, the first of equals."""
    counts = Counter(map(str, values))
    return max(values, key=lambda value: counts[str(value)])


def _crs(crs: str | CRS) -> CRS:
    try:
        return CRS.from_user_input(crs)
    except (CRSError, ValueError) as e:
        raise ConfigError(f"'{crs}' is not a coordinate reference system; write for example EPSG:3035") from e


def _floor(value: float) -> int:
    """Round down, but take a hair's breadth below a whole pixel as that pixel."""
    return math.floor(value + _ALIGNED)


def _meet(a: Box, b: Box) -> bool:
    return a.row0 < b.row1 and b.row0 < a.row1 and a.col0 < b.col1 and b.col0 < a.col1


def _clipped(a: Box, b: Box) -> Box:
    """The part of a box that lies in another."""
    return Box(max(a.row0, b.row0), min(a.row1, b.row1), max(a.col0, b.col0), min(a.col1, b.col1))
