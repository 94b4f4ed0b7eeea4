"""Which band of a product is which, and how its numbers become reflectance: told, proven by pixels, or refused."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from landcover.errors import BandError, OtherBandsError, SceneError, counted
from landcover.products import BandSource, Product, gdal_options, is_local, open_file, raster_bands
from landcover.specs import Sensor, band_key, config_names, load_sensor

_IMPOSSIBLE = 0.05
"""Reflectances below minus this do not occur in numbers, beyond a stray pixel."""

_TOO_DARK = 0.005
"""A scene where hardly a pixel of any band exceeds this reflectance is not stored as its sensor says."""


@dataclass(frozen=True)
class Band:
    """One band a model wants, and where it lies.

    Attributes:
        name: common name.
        source: the file and the band in it.
        scale, offset: `reflectance = digital number * scale + offset`.
        nodata: digital number of missing pixels, or None.
        why: how band and scaling were told, for people.
    """

    name: str
    source: BandSource
    scale: float
    offset: float
    nodata: float | None
    why: str

    def __str__(self) -> str:
        """Which one it is, how its numbers are taken, and how that was told."""
        nodata = "no nodata" if self.nodata is None else f"nodata {self.nodata:.10g}"
        label = f" '{self.source.label}'" if self.source.label else ""
        return f"band {self.source.index}{label} × {self.scale:.6g} {self.offset:+.6g}, {nodata} ({self.why})"

    @property
    def facts(self) -> dict[str, Any]:
        """What a map's tags tell of it, as plain values: which band of its file it is, and its scaling."""
        label = {"label": self.source.label} if self.source.label else {}
        return {"band": self.source.index, **label, "scale": self.scale, "offset": self.offset}


@dataclass(frozen=True)
class Choice:
    """What the user says about a scene, before anything is looked up.

    Attributes:
        sensor: name or TOML file, or None.
        bands: common name → band number in the scene, or what the scene calls it.
        scale, offset: to reflectance; None to take them from the sensor or the scene.
    """

    sensor: str | None = None
    bands: Mapping[str, str | int] | None = None
    scale: float | None = None
    offset: float | None = None


def resolve_bands(product: Product, wanted: tuple[str, ...], choice: Choice) -> tuple[Band, ...]:
    """Tell which band of a product is which, and its scaling.

    Bands: what the user maps, then the sensor, then names, descriptions and colours in the product. Scaling: what the
    user says, then the sensor the user names, then the product, its metadata before its files, then the sensor the
    product tells.

    Raises:
        BandError: a wanted band is not found or found twice, or its scaling is not known.
        SceneError: a file is to tell the scaling, and cannot be opened.
    """
    chosen = load_sensor(choice.sensor) if choice.sensor else None
    told = chosen or (load_sensor(product.sensor) if product.sensor else None)
    mapping = choice.bands or {}
    for name in mapping:
        if name not in wanted:
            raise OtherBandsError(f"--bands names '{name}', which the model does not use; it wants {', '.join(wanted)}")
    found = [_find_band(product, name, mapping.get(name), told) for name in wanted]
    if chosen and product.sensor and choice.sensor in config_names("sensors"):
        named = {name: source for name, (source, _) in zip(wanted, found, strict=True) if name not in mapping}
        _check_sensor(product, named, chosen, load_sensor(product.sensor))
    scaling = _Scaling(product.name, tuple(source for source, _ in found), choice, chosen, told)
    return tuple(scaling.of(name, source, why) for name, (source, why) in zip(wanted, found, strict=True))


def _check_sensor(product: Product, named: Mapping[str, BandSource], chosen: Sensor, own: Sensor) -> None:
    """Refuse a sensor that takes bands for others than they are by the product's own names and metadata."""
    for name, source in named.items():
        meant = own.common_name(source.label)
        if meant not in (None, name):
            raise BandError(
                f"{product.name} is a product of {own.name}, in which {source.label} is '{meant}', and --sensor "
                f"{chosen.name} takes it for '{name}'; leave --sensor out, or name the bands with --bands"
            )


def _find_band(product: Product, name: str, mapped: str | int | None, sensor: Sensor | None) -> tuple[BandSource, str]:
    """The band of a product with a common name, and how that was told."""
    if mapped is not None:
        return _mapped_band(product, name, str(mapped)), "--bands"
    if sensor:
        unnamed = _is_unnamed(product)
        if unnamed and name in sensor.band_names:
            hits = [b for b, n in zip(product.bands, _layout(product, sensor), strict=True) if n == name]
        else:
            hits = [b for b in product.bands if b.label and sensor.common_name(b.label) == name]
        why = f"sensor {sensor.name}" + (", by its order" if unnamed else "")
        if hits:
            return _only(hits, name, product), why
    hits = [b for b in product.bands if b.common_name == name]
    if not hits:  # such as 'vv', which is no band of an optical sensor
        hits = [b for b in product.bands if b.label and not b.common_name and band_key(b.label) == band_key(name)]
    if not hits:
        if sensor and name not in sensor.band_names:
            raise OtherBandsError(
                f"{product.name} is taken as {sensor.name}, which has no band '{name}', and the model wants one; "
                f"choose a model for the bands there are, or say with --bands {name}=… which band stands for it"
            )
        hint = "" if sensor else " with --sensor NAME or"
        raise OtherBandsError(
            f"{product.name} has no band that is known to be '{name}'; it holds {listing(product)}. "
            f"Say which is which{hint} with --bands, for example --bands {name}=1"
        )
    return _only(hits, name, product), "its name in the scene"


def _mapped_band(product: Product, name: str, mapped: str) -> BandSource:
    by_label = [b for b in product.bands if b.label and band_key(b.label) == band_key(mapped)]
    if mapped.isdecimal() and 1 <= int(mapped) <= len(product.bands):
        return product.bands[int(mapped) - 1]
    if by_label:
        return _only(by_label, name, product)
    raise BandError(f"--bands {name}={mapped}: {product.name} has no such band; it holds {listing(product)}")


def shared(bands: Sequence[Band]) -> str:
    """What to tell of bands of a model that are one and the same band of the scene: a sentence, or ""."""
    by_source: dict[tuple[str, int], list[str]] = {}
    for band in bands:
        by_source.setdefault((band.source.path, band.source.index), []).append(band.name)
    told = [
        f"band {index} of {path} is taken for {', '.join(names)}"
        for (path, index), names in by_source.items()
        if len(names) > 1
    ]
    return f"{'; '.join(told)}: correct --bands, unless one is to stand for the other" if told else ""


def _is_unnamed(product: Product) -> bool:
    """True where no band is described, or each by its number in the file, as programs do; colours are GDAL's guess."""
    return all(band_key(b.label) in ("", f"band{b.index}") for b in product.bands)


def _usual_layouts(product: Product, sensor: Sensor) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The usual files of a sensor that have as many bands as a product, and those that have all but one."""
    count = len(product.bands)
    return [x for x in sensor.layouts if len(x) == count], [x for x in sensor.layouts if len(x) == count - 1]


def counts_alpha(product: Product, sensor: Sensor) -> bool:
    """True where a band flagged as alpha is one of the sensor's: its usual files have so many bands, and none of them
    one less, to which a mask could have been added.
    """
    fitting, before = _usual_layouts(product, sensor)
    return _is_unnamed(product) and bool(fitting) and not before


def _layout(product: Product, sensor: Sensor) -> tuple[str, ...]:
    fitting, before = _usual_layouts(product, sensor)
    masked = bool(before) and product.bands[-1].alpha
    if len(fitting) != 1 or masked:
        known = ", ".join(str(len(layout)) for layout in sensor.layouts) or "no"
        but, example = "", "red=3,nir=4"
        if masked:
            but = ", and its last one is flagged as alpha, a mask unless it is near infrared"
            example = ",".join(f"{name}={i}" for i, name in enumerate(before[0], 1))
        raise BandError(
            f"{product.name} does not name its {counted(len(product.bands), 'band')}{but}, and the usual files of "
            f"{sensor.name} have {known} bands; say which is which with --bands, for example --bands {example}"
        )
    return fitting[0]


def _only(hits: list[BandSource], name: str, product: Product) -> BandSource:
    if len(hits) > 1:
        labels = ", ".join(b.label or f"band {b.index}" for b in hits)
        raise BandError(f"{product.name} has more than one band '{name}' ({labels}); choose one with --bands {name}=…")
    return hits[0]


def listing(product: Product) -> str:
    """How many bands a product holds and what it calls each, with the number by which `--bands` knows it."""
    names = [b.label or b.common_name or "unnamed" for b in product.bands]
    listed = ", ".join(f"{i}: {n}" for i, n in enumerate(names[:20], 1))
    return f"{counted(len(names), 'band')} ({listed}{', …' if len(names) > 20 else ''})"


def check_scaling(scale: float | None, offset: float | None, said: str, of: str = "") -> None:
    """Refuse a scale or an offset that cannot be one; None where it is not said.

    Raises:
        BandError: it is 0, as a scale, or no finite number; `said` is what to correct; the error begins with `of`.
    """
    if scale == 0 or not all(math.isfinite(number) for number in (scale, offset) if number is not None):
        factor, term = ("scale" if scale is None else scale), ("offset" if offset is None else offset)
        raise BandError(f"{of}reflectance = number × {factor} + {term} is no scaling; correct {said}")


def with_scaling(bands: Sequence[BandSource]) -> list[BandSource]:
    """Bands with the scaling that their product says: its metadata, or, where they are silent, a band's own file.

    Raises:
        SceneError: a file is to tell it, and cannot be opened.
    """
    stored = {path: raster_bands(path) for path in {b.path for b in bands if b.scale is None}}
    found = {(b.path, b.index): b for told in stored.values() for b in told}
    return [b if b.scale is not None else found.get((b.path, b.index), b) for b in bands]


@dataclass(frozen=True)
class _Scaling:
    """All who may say how the numbers of a product become reflectance.

    Attributes:
        product: its name, for people.
        bands: those that are wanted.
        choice: what the user says.
        chosen: the sensor the user names, or None.
        told: that, or the sensor the product tells, or None.
    """

    product: str
    bands: tuple[BandSource, ...]
    choice: Choice
    chosen: Sensor | None
    told: Sensor | None

    def of(self, name: str, source: BandSource, why: str) -> Band:
        """A band with its scaling: scale and offset each from the first that says it."""
        (scale, who), (offset, note) = self._scale(source), self._offset(source)
        given = self.choice.scale is not None or self.choice.offset is not None
        told = "--scale or --offset" if given else f"what {who} says, or give --scale and --offset"
        check_scaling(scale, offset, told, f"{self.product}: ")
        nodata = source.nodata if source.nodata is not None else self.told.nodata if self.told else None
        return Band(name, source, scale, offset, nodata, f"{why}; scale from {who}, offset from {note}")

    def _scale(self, source: BandSource) -> tuple[float, str]:
        if self.choice.scale is not None:
            return self.choice.scale, "--scale"
        if self.chosen:
            return self.chosen.scale, f"sensor {self.chosen.name}"
        if (said := self._said[source]).scale is not None:
            return said.scale, self._teller(source)
        if self.told:
            return self.told.scale, f"sensor {self.told.name}"
        raise BandError(
            f"{self.product} does not say how its numbers become reflectance; name its sensor with --sensor, "
            "or give --scale (and --offset): reflectance = number × scale + offset, for example --scale 0.0001"
        )

    def _offset(self, source: BandSource) -> tuple[float, str]:
        if self.choice.offset is not None:
            return self.choice.offset, "--offset"
        if self.chosen and not isinstance(self.chosen.offset, str):
            return self.chosen.offset, f"sensor {self.chosen.name}"
        if (said := self._said[source]).scale is not None:
            return said.offset or 0.0, self._teller(source)
        if self.told and not isinstance(self.told.offset, str):
            return self.told.offset, f"sensor {self.told.name}"
        return (self._proven_offset, "its pixels") if self.told else (0.0, "--scale given alone")

    def _teller(self, source: BandSource) -> str:
        return "its file" if source.scale is None else "the scene"

    @cached_property
    def _said(self) -> dict[BandSource, BandSource]:
        return dict(zip(self.bands, with_scaling(self.bands), strict=True))

    @cached_property
    def _proven_offset(self) -> float:
        """The offset of a product that does not declare one, where the pixels of the wanted bands leave no doubt.

        Where one pixel in a hundred, of those sampled, would have an impossible negative reflectance under an offset,
        that offset is not in the numbers.
        """
        sensor, name = self.told, self.product
        assert sensor is not None
        scale = sensor.scale if self.choice.scale is None else self.choice.scale
        sample = _sample(self.bands)
        sample = sample[np.isfinite(sample) & (sample != (sensor.nodata or 0))]
        if not sample.size:
            raise BandError(
                f"{name} has no valid pixel where it was looked for, to tell its offset by; say it with --offset"
            )
        if np.percentile(sample, 99) * scale < _TOO_DARK:
            largest = np.percentile(sample, 99)
            raise BandError(
                f"{name} holds numbers up to {largest:.4g}, too small for {sensor.name}, whose reflectance is "
                f"number × {scale:g}; if they are reflectance already, give --scale 1 --offset 0; "
                "if they are percent, give --scale 0.01 --offset 0"
            )
        allowed = [o for o in sensor.offsets if np.mean(sample * scale + o < -_IMPOSSIBLE) < 0.01]
        if len(allowed) == 1:
            return allowed[0]
        raise BandError(
            f"{name} does not say which offset its numbers carry, and {sensor.name} products exist with "
            f"{' and '.join(map(str, sensor.offsets))}; say it with --offset (for Sentinel-2: --offset -0.1 from "
            "processing baseline 04.00 on, 25 January 2022, unless it was removed already; --offset 0 before)"
        )


def _sample(bands: tuple[BandSource, ...], places: int = 4, side: int = 64) -> np.ndarray:
    """Pixels in a few small squares of each band, spread over the scene, without those that it masks; float64, 1-D."""
    squares: list[np.ndarray] = []
    with rasterio.Env(**gdal_options()), ExitStack() as stack:
        for path in dict.fromkeys(b.path for b in bands):
            file = open_file(path, stack)
            indexes = [b.index for b in bands if b.path == path]
            if max(indexes) > file.count:
                raise SceneError(f"{path} has no band {max(indexes)}, which it is said to hold")
            for i in range(places * places):
                row = file.height * (2 * (i // places) + 1) // (2 * places) - side // 2
                col = file.width * (2 * (i % places) + 1) // (2 * places) - side // 2
                window = Window(max(col, 0), max(row, 0), side, side).intersection(
                    Window(0, 0, file.width, file.height)
                )
                squares.extend(_read(file, path, index, window).compressed().astype(float) for index in indexes)
    return np.concatenate(squares)


def _read(file: rasterio.DatasetReader, path: str, index: int, window: Window) -> np.ma.MaskedArray:
    try:
        return file.read(index, window=window, masked=True)
    except RasterioError as e:
        raise SceneError(f"{path} cannot be read: {e.__cause__ or e}; the file may be cut short") from e


def share_type(file: rasterio.DatasetReader | WarpedVRT, bands: Sequence[int]) -> bool:
    """Whether bands of a file have one data type; rasterio reads no others at once, which virtual rasters may have."""
    return len({file.dtypes[band - 1] for band in bands}) == 1


def view_of(bands: Sequence[tuple[rasterio.DatasetReader, int, float | None]]) -> str:
    """A virtual raster of bands that share a grid, as GDAL opens it; none is flagged as alpha, as their files may do.

    Args:
        bands: the file of each, its number there, and its nodata.
    """
    first = bands[0][0]
    views = "".join(
        f'<VRTRasterBand dataType="{_gdal_type(file.dtypes[number - 1])}" band="{i}">'
        f"{'' if nodata is None else f'<NoDataValue>{nodata}</NoDataValue>'}<SimpleSource>"
        f'<SourceFilename relativeToVRT="0">{escape(file.name)}</SourceFilename><SourceBand>{number}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for i, (file, number, nodata) in enumerate(bands, 1)
    )
    return (
        f'<VRTDataset rasterXSize="{first.width}" rasterYSize="{first.height}">'
        f"<SRS>{escape(first.crs.to_wkt()) if first.crs else ''}</SRS>"
        f"<GeoTransform>{','.join(map(repr, first.transform.to_gdal()))}</GeoTransform>{views}</VRTDataset>"
    )


def _gdal_type(dtype: str) -> str:
    return {"uint8": "Byte"}.get(dtype, dtype.capitalize().replace("Uint", "UInt"))


def check_place(band: Band, file: rasterio.DatasetReader) -> None:
    """Refuse a file that lacks a band, or has more than are told of, unless it describes that one by the same name.

    So is a virtual raster that is told of and lies elsewhere: what a server sends must not name files of this machine.
    """
    source, spectral = band.source, [role for role in file.colorinterp if role != ColorInterp.alpha]
    if source.index > file.count:
        raise SceneError(f"{source.path} has no band {source.index}, where '{band.name}' should be")
    if source.told is None:
        return
    if file.driver == "VRT" and not is_local(source.path):
        raise SceneError(
            f"{source.path} is a virtual raster, which could lead from an item to any file of this machine; give it "
            "itself as the scene if you trust it, or let the item name the files that it is made of"
        )
    if source.told >= len(spectral):
        return
    names = {band_key(name) for name in (source.label, source.common_name) if name}
    if band_key(file.descriptions[source.index - 1] or "") not in names:
        raise SceneError(
            f"{source.path} has {len(spectral)} bands, and the item does not say which is '{band.name}'; let it "
            "describe each, in their order, or give the file itself"
        )
