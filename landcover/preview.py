"""Pictures of maps and scenes, small enough to look at."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import rasterio
import rasterio.shutil
from PIL import Image, ImageDraw, ImageFont
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NodataShadowWarning
from rasterio.vrt import WarpedVRT

from landcover.bands import Choice, check_place, listing, resolve_bands, share_type, view_of
from landcover.classmap import check_values, count_values, filled, open_map, open_raster
from landcover.errors import BandError, ConfigError, OtherBandsError, OutputError, SceneError, nearest
from landcover.outputs import check_destination, disk_errors, publish, work_folder
from landcover.products import Product, is_raster, masking_bands, open_file, read_product
from landcover.provenance import legend_tag
from landcover.specs import LandClass, Legend, band_key, load_sensor

SMALLEST = 64
"""Pixels; below this a legend cannot be read."""
LARGEST = 16_384
"""The longest side of a picture, in pixels."""

_COLOURS = ("red", "green", "blue")
_NUMBERED_COLOURS = ("b4", "b3", "b2")
_GAP = 8
_LINE = 22
_SWATCH = 14
_INK = (32, 32, 32, 255)
_PAPER = (255, 255, 255, 255)


def preview(
    path: str | Path,
    out: str | Path,
    *,
    size: int = 1024,
    scene: str | Path | None = None,
    bands: Mapping[str, str] | None = None,
    legend: Legend | str | None = None,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Draw a class map with its colours and legend, or a scene in its own colours, as a PNG.

    Pixels without data are transparent. Small rasters are enlarged by a whole factor.

    Args:
        path: a class map, or any other raster, folder of bands or STAC item, which is drawn as a scene: its bands red,
            green and blue if it names them, else its first three, or its only one in grey, each stretched from its
            2nd to its 98th percentile.
        out: the PNG.
        size: the longest side of the whole picture, in pixels.
        scene: drawn to the left of the map, brought to its grid where it lies on another one.
        bands: the number or the description of the scene's bands to show as "red", "green" and "blue".
        legend: a legend, its name or its file, for maps that carry none.
        overwrite: replace `out`.

    Returns:
        Width and height of the picture in pixels.

    Raises:
        BandError: the folder or item does not tell which of its bands are red, green and blue.
        ConfigError: `out` is no PNG, `size` is too small or too large, or `scene` is given beside what is no map.
        MapError: the map cannot be read.
        SceneError: the scene cannot be read, or does not touch the map.
        OutputError: `out` exists, is what is to be shown, or cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out} is not the name of a PNG; let it end in .png")
    if not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"a preview of {size} px cannot be made; choose between {SMALLEST} and {LARGEST}")
    check_destination(out, overwrite=overwrite)
    if out.resolve() in (Path(path).resolve(), scene and Path(scene).resolve()):
        raise OutputError(f"{out} is what is to be shown; choose another name for the picture")
    if bands and set(bands) != set(_COLOURS):
        raise ConfigError(
            "a preview needs the bands red, green and blue; write for example --bands red=4,green=3,blue=2"
        )
    opened, shown = _openable(path, bands)
    if legend is not None or _is_map(opened):
        if bands and scene is None:
            raise ConfigError(f"--bands is given, but {path} is a class map; add its --scene, or leave --bands out")
        picture = map_picture(opened, size, scene=scene, bands=bands, legend=legend)
    elif scene is not None:
        raise ConfigError(f"{path} is not a class map, so no scene can be shown beside it; leave --scene out")
    else:
        with open_raster(opened, SceneError) as dataset:
            picture = scene_picture(dataset, _fit(dataset, size, size), shown)
    _save(picture, out)
    return picture.size


def _openable(source: str | Path, bands: Mapping[str, str] | None) -> tuple[str | Path, Mapping[str, str] | None]:
    """What GDAL opens, and which of its bands to show, if that was said.

    That is a raster itself; for a folder of bands or a STAC item, a view of the three bands.

    Raises:
        SceneError: the folder or item cannot be read, or the three bands do not share a grid.
        BandError: they are not all known.
    """
    if is_raster(str(source)):
        return source, bands
    product = read_product(str(source))
    choice = Choice(sensor=_fallback(product), bands=dict(bands) if bands else None, scale=1, offset=0)
    try:
        found = resolve_bands(product, _COLOURS, choice)
    except OtherBandsError as e:
        raise BandError(
            f"{source} does not tell which of its {listing(product)} are red, green and blue; say it with "
            "landcover preview --bands red=3,green=2,blue=1, or show one of its files"
        ) from e
    with ExitStack() as stack:
        files = [open_file(b.source.path, stack) for b in found]
        for band, file in zip(found, files, strict=True):
            check_place(band, file)
        first = files[0]
        if any(f.shape != first.shape or not f.transform.almost_equals(first.transform, 1e-6) for f in files):
            raise SceneError(f"the bands red, green and blue of {source} do not share a grid; preview one of its files")
        sources = [(f, b.source.index, b.source.nodata) for f, b in zip(files, found, strict=True)]
        return view_of([(f, i, nodata if f.nodata is None else f.nodata) for f, i, nodata in sources]), None


def _fallback(product: Product) -> str | None:
    """The sensor by which to take bands of a product that tells none and has no other names for them, else None.

    Of bands that are known by number alone, 4, 3 and 2 are red, green and blue for Sentinel-2 and Landsat 8 alike.
    """
    usual = load_sensor("sentinel2-l2a")
    pairs = [(b.common_name, usual.common_name(b.label)) for b in product.bands]
    otherwise = any(told not in (None, by_label) and {told, by_label} & set(_COLOURS) for told, by_label in pairs)
    return None if product.sensor or otherwise else usual.name


def _is_map(path: str | Path) -> bool:
    with open_raster(path, SceneError) as dataset:
        alone = dataset.count == 1 and dataset.dtypes[0] == "uint8"
        return legend_tag(dataset.tags()) is not None or (alone and dataset.colorinterp[0] == ColorInterp.palette)


def map_picture(
    path: str | Path,
    size: int,
    *,
    scene: str | Path | None = None,
    bands: Mapping[str, str] | None = None,
    legend: Legend | str | None = None,
) -> Image.Image:
    """The map, the scene to its left if there is one, and the legend below, at most `size` on a side; see `preview`."""
    with open_map(path, legend) as (dataset, known), ExitStack() as stack:
        beside, shown = None, None
        if scene is not None:
            opened, shown = _openable(scene, bands)
            beside = stack.enter_context(_on_grid_of(dataset, opened, scene))
        panels = 2 if beside else 1
        across = (size - (panels - 1) * _GAP) // panels
        ids = _read_ids(dataset, _fit(dataset, across, size))
        check_values(count_values(ids, known), known, dataset.name, exact=False)
        present = [c for c in known.classes if (ids == c.id).any()]
        shape, strip = _fit_with_legend(dataset, across, size, panels, present)
        pictures = [_colour(_read_ids(dataset, shape), known, dataset)]
        if beside:
            pictures.insert(0, scene_picture(beside, shape, shown))
        return _compose(pictures, strip)


def _fit(dataset: rasterio.DatasetReader, across: int, down: int) -> tuple[int, int]:
    """Rows and columns of a raster drawn into a box: reduced to fit, or enlarged by a whole factor."""
    factor = min(across / dataset.width, down / dataset.height)
    factor = int(factor) if factor >= 1 else factor
    return max(1, int(dataset.height * factor)), max(1, int(dataset.width * factor))


def _fit_with_legend(
    dataset: rasterio.DatasetReader, across: int, size: int, panels: int, classes: Sequence[LandClass]
) -> tuple[tuple[int, int], Image.Image]:
    """The shape of a panel and the legend under all of them, together no higher than `size`.

    A narrower picture needs more lines of legend, hence the search; where there is no room the legend goes.
    """
    down = size
    while down > 0:
        shape = _fit(dataset, across, down)
        strip = draw_legend(classes, max(SMALLEST, panels * shape[1] + (panels - 1) * _GAP))
        if shape[0] + strip.height <= size:
            return shape, strip
        down = min(down - 1, size - strip.height)
    return _fit(dataset, across, size), Image.new("RGBA", (1, 0))


def _read_ids(dataset: rasterio.DatasetReader, shape: tuple[int, int]) -> np.ndarray:
    """Class ids at the size of the picture, uint8 (rows, cols): the most frequent one of what a pixel covers."""
    how = Resampling.mode if shape[0] < dataset.height or shape[1] < dataset.width else Resampling.nearest
    return filled(dataset.read(1, out_shape=shape, resampling=how, masked=True), dataset.nodata)


def _colour(ids: np.ndarray, legend: Legend, dataset: rasterio.DatasetReader) -> Image.Image:
    palette = np.zeros((256, 4), np.uint8)
    for c in legend.classes:
        palette[c.id] = (*c.rgb, 255)
    return Image.fromarray(_north_up(palette[ids], dataset))


def _north_up(pixels: np.ndarray, dataset: rasterio.DatasetReader) -> np.ndarray:
    return pixels[::-1] if dataset.crs is not None and dataset.transform.e > 0 else pixels


def scene_picture(
    dataset: rasterio.DatasetReader | WarpedVRT, shape: tuple[int, int], bands: Mapping[str, str] | None = None
) -> Image.Image:
    """A scene at (rows, cols), in colour or grey, transparent where no band has data."""
    indexes = given_bands(dataset, bands) if bands else display_bands(dataset)
    how = Resampling.average if shape[0] < dataset.height else Resampling.nearest
    masks = masking_bands(dataset)
    masked = bool(masks) or MaskFlags.alpha not in dataset.mask_flag_enums[0]  # by what else the file has
    together = [indexes] if share_type(dataset, indexes) else [[i] for i in indexes]
    read = [dataset.read(b, out_shape=(len(b), *shape), resampling=how, masked=masked) for b in together]
    values = np.ma.concatenate([pixels.astype("float32") for pixels in read])
    known = ~np.ma.getmaskarray(values) & np.isfinite(values.data)
    for i in set(masks) - set(indexes):  # to GDAL it is a mask only beside one or three bands
        known &= dataset.read(i, out_shape=shape, resampling=how) > 0
    grey = [stretch(v, k) for v, k in zip(values.data, known, strict=True)]
    alpha = np.where(known.any(axis=0), 255, 0).astype(np.uint8)
    layers = [*(grey * 3 if len(grey) == 1 else grey), alpha]
    return Image.fromarray(_north_up(np.stack(layers, axis=-1), dataset))


def display_bands(dataset: rasterio.DatasetReader | WarpedVRT) -> list[int]:
    """Which bands to show as red, green and blue: those so named, else the first three, or the only one.

    Where bands are called B2, B3 and B4, they are shown as blue, green and red, as Sentinel-2 and Landsat 8 mean them.
    """
    names = [(d or "").strip().lower() for d in dataset.descriptions]
    keys = [band_key(name) for name in names]
    roles = [c.name for c in dataset.colorinterp]
    for labels, colours in ((names, _COLOURS), (keys, _NUMBERED_COLOURS), (roles, _COLOURS)):
        if all(labels.count(c) == 1 for c in colours):
            return [labels.index(c) + 1 for c in colours]
    spectral = [i for i, role in enumerate(roles, 1) if role != "alpha"]
    return spectral[:3] if len(spectral) >= 3 else spectral[:1]


def given_bands(dataset: rasterio.DatasetReader | WarpedVRT, bands: Mapping[str, str]) -> list[int]:
    """The bands that a person wants to see as red, green and blue, by number or description.

    Raises:
        ConfigError: the scene has no such band.
    """
    names = {str(i): i for i in dataset.indexes} | {d: i for i, d in enumerate(dataset.descriptions, 1) if d}
    known = {band_key(name): i for name, i in names.items()}
    for colour, band in bands.items():
        if band_key(band) not in known:
            raise ConfigError(f"{dataset.name} has no band '{band}' to show as {colour}: {nearest(band, [*names])}")
    return [known[band_key(bands[c])] for c in _COLOURS]


def stretch(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Spread values (rows, cols) over 0–255 uint8, from their 2nd to their 98th percentile; `known` True = usable."""
    if not known.any():
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(values[known], [2, 98])
    share = (np.where(known, values, low) - low) / max(float(high - low), 1e-12)
    return (np.clip(share, 0, 1) * 255).round().astype(np.uint8)


@contextmanager
def _on_grid_of(
    target: rasterio.DatasetReader, opened: str | Path, scene: str | Path
) -> Iterator[rasterio.DatasetReader | WarpedVRT]:
    """The scene, as it is opened, on the grid of the map.

    Raises:
        SceneError: it cannot be read, or does not touch the map.
    """
    with open_raster(opened, SceneError) as dataset, ExitStack() as stack:
        same_size = (dataset.height, dataset.width) == (target.height, target.width)
        if same_size and dataset.crs == target.crs and dataset.transform.almost_equals(target.transform, 1e-6):
            yield dataset
            return
        if dataset.crs is None or target.crs is None:
            raise SceneError(
                f"{scene} is not on the grid of {target.name}, and without a CRS it cannot be brought there"
            )
        # Outside of the scene is nan, for to GDAL an alpha band is a mask only beside one or three bands.
        stack.enter_context(warnings.catch_warnings(action="ignore", category=NodataShadowWarning))
        warped = stack.enter_context(
            WarpedVRT(
                _unflagged(dataset, stack),
                crs=target.crs,
                transform=target.transform,
                height=target.height,
                width=target.width,
                resampling=Resampling.bilinear,
                dtype="float32",
                nodata=np.nan,
                SRC_ALPHA_MAX="1",  # whatever is not 0 is usable
            )
        )
        if not warped.dataset_mask(out_shape=_fit(target, 256, 256)).any():
            raise SceneError(f"{scene} does not touch {target.name}; give the scene that the map was made from")
        yield warped


def _unflagged(dataset: rasterio.DatasetReader, stack: ExitStack) -> rasterio.DatasetReader:
    """A scene whose spectral bands are not flagged as alpha, for that is what the warp takes for a mask."""
    masks = masking_bands(dataset)
    roles = [
        ColorInterp.undefined if role == ColorInterp.alpha and i not in masks else role
        for i, role in enumerate(dataset.colorinterp, 1)
    ]
    if roles == list(dataset.colorinterp):
        return dataset
    view = f"/vsimem/{uuid4().hex}.vrt"
    rasterio.shutil.copy(dataset, view, driver="VRT")
    stack.callback(rasterio.shutil.delete, view)
    with rasterio.open(view, "r+") as file:
        file.colorinterp = roles
    return stack.enter_context(rasterio.open(view))


def draw_legend(classes: Sequence[LandClass], width: int) -> Image.Image:
    """A strip with a swatch and the name of every class, in as many lines as the width asks for."""
    font = _font_for("".join(c.name for c in classes))
    places, x, y = [], _GAP, 0
    for c in classes:
        length = _SWATCH + _GAP // 2 + int(np.ceil(font.getlength(c.name))) + 2 * _GAP
        if x > _GAP and x + length > width:
            x, y = _GAP, y + _LINE
        places.append((c, x, y))
        x += length
    strip = Image.new("RGBA", (width, y + _LINE if places else 0), _PAPER)
    draw = ImageDraw.Draw(strip)
    for c, x, y in places:
        top = y + (_LINE - _SWATCH) // 2
        draw.rectangle((x, top, x + _SWATCH, top + _SWATCH), fill=(*c.rgb, 255), outline=_INK)
        draw.text((x + _SWATCH + _GAP // 2, y + _LINE // 2), c.name, fill=_INK, font=font, anchor="lm")
    return strip


def _font_for(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font that has the letters of a text: Pillow's own has English ones alone, for others the machine is asked."""
    if not text.isascii():
        with suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", 13)
    return ImageFont.load_default(13)


def _compose(pictures: list[Image.Image], strip: Image.Image) -> Image.Image:
    """Pictures side by side, and the strip below."""
    width = sum(p.width for p in pictures) + _GAP * (len(pictures) - 1)
    height = max(p.height for p in pictures)
    page = Image.new("RGBA", (max(width, strip.width), height + strip.height), (0, 0, 0, 0))
    x = 0
    for p in pictures:
        page.paste(p, (x, 0))
        x += p.width + _GAP
    if strip.height:
        page.paste(strip, (0, height))
    return page


def _save(picture: Image.Image, out: Path) -> None:
    with disk_errors(out), work_folder(out) as work:
        done = work / "done"
        done.mkdir()
        picture.save(done / out.name, "PNG", optimize=True)
        publish(done, out)
