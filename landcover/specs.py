"""What sensors, legends and models are: checked values, read from TOML, with nothing left to guess."""

import difflib
import os
import re
import tomllib
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from landcover.errors import ConfigError, ModelError, nearest

_LARGEST_FACTOR = 32
"""Scenes that would have to be enlarged more than this show nothing of what a model knows."""

DECLARED = "declared"
"""The offset of a sensor whose products must say themselves which one they carry."""


class Spec(BaseModel):
    """A value that checks itself when it is made; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def _plain(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"{name[:40]!r} cannot be the name of a model; write Latin letters, digits, '.', '_' and '-', a letter or "
            "a digit first"
        )
    return name


PlainName = Annotated[str, AfterValidator(_plain)]
"""A name that can be that of a folder anywhere."""


class LandClass(Spec):
    """One entry of a legend."""

    id: Annotated[int, Field(ge=1, le=254)]
    name: Annotated[str, Field(min_length=1)]
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]

    @property
    def rgb(self) -> tuple[int, int, int]:
        return tuple(bytes.fromhex(self.color[1:]))  # type: ignore[return-value]


class Legend(Spec):
    """The classes of a map; 0 is nodata and never a class."""

    name: str
    title: str = ""
    classes: Annotated[tuple[LandClass, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_class_twice(self) -> "Legend":
        for what, values in (("id", self.ids), ("name", self.names)):
            if len(set(values)) < len(values):
                raise ValueError(f"a class {what} occurs twice in {values}")
        return self

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(c.id for c in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    def id_of(self, name: str | int) -> int:
        """The class id of a name or of an id; a text is a name before it is an id.

        Raises:
            ConfigError: the legend has no such class.
        """
        ids: dict[str | int, int] = {key: i for i in self.ids for key in (i, str(i))}
        known = ids | dict(zip(self.names, self.ids, strict=True))
        if name in known:
            return known[name]
        raise ConfigError(f"class '{name}' is not in the legend '{self.name}': {nearest(str(name), self.names)}")


class SensorBand(Spec):
    """One band of a sensor. `name` is the common name; `aliases` are what products call it."""

    name: str
    aliases: tuple[str, ...] = ()
    gsd: float | None = None


class Sensor(Spec):
    """How a product stores its pixels: `reflectance = digital number * scale + offset`.

    Attributes:
        scale, offset: the affine map to reflectance in 0–1; offset "declared" if the product has to say it.
        offsets: the offsets that exist, where it is declared.
        nodata: the digital number of missing pixels, for files that do not declare it.
        layouts: band names in file order, for files that do not name their bands.
    """

    name: str
    title: str
    gsd: float
    scale: float
    offset: float | Literal["declared"] = 0.0
    offsets: tuple[float, ...] = ()
    nodata: float | None = None
    bands: Annotated[tuple[SensorBand, ...], Field(min_length=1)]
    layouts: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _layouts_name_bands(self) -> "Sensor":
        unknown = {n for layout in self.layouts for n in layout} - set(self.band_names)
        if unknown:
            raise ValueError(f"a layout names bands that the sensor has not: {sorted(unknown)}")
        if self.offset == DECLARED and not self.offsets:
            raise ValueError("an offset that products declare needs the list of those that exist, offsets = [...]")
        owners: dict[str, str] = {}
        for band in self.bands:
            for alias in (band.name, *band.aliases):
                if owners.setdefault(band_key(alias), band.name) != band.name:
                    raise ValueError(f"'{alias}' names both {owners[band_key(alias)]} and {band.name}")
        if self.scale == 0:
            raise ValueError("a scale of 0 would make every pixel the same")
        return self

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)

    @cached_property
    def _by_alias(self) -> dict[str, str]:
        return {band_key(a): b.name for b in self.bands for a in (b.name, *b.aliases)}

    def common_name(self, label: str) -> str | None:
        """The common name of what a product calls `label`, or None."""
        return self._by_alias.get(band_key(label))


class BandStats(Spec):
    """Mean and standard deviation of a band's reflectance in the training data."""

    mean: float
    stddev: Annotated[float, Field(gt=0)]


class ModelSpec(Spec):
    """Everything about a model but its weights.

    Attributes:
        architecture: `unet`, `pointwise`, or the name of an architecture of segmentation-models-pytorch.
        hyperparameters: arguments of the architecture, such as `encoder_name`, `depth`, `width`.
        bands: common names, in the order of the network's channels.
        stats: how reflectance is normalised, one per band.
        gsd: metres per pixel, the finest and the coarsest the model was trained for; None if any.
        sees: metres per pixel that the network is shown; coarser scenes are enlarged to about that. None for any.
        stride: the network's total stride in pixels; None if nobody wrote it down.
        bf16_safe: it was measured in bf16: under one label in a hundred changes, and its accuracy stays within .002.
        trained: False for a model made by `landcover models init`.
    """

    name: PlainName
    description: str = ""
    architecture: str
    hyperparameters: dict[str, Any] = {}
    bands: Annotated[tuple[str, ...], Field(min_length=1)]
    stats: tuple[BandStats, ...]
    legend: Legend
    gsd: tuple[float, float] | None = None
    sees: Annotated[float, Field(gt=0)] | None = None
    stride: Annotated[int, Field(ge=1, le=4096)] | None = None
    bf16_safe: bool = False
    trained: bool = True
    licence: str = "other"
    training: str = ""
    accuracy: dict[str, dict[str, int | float]] = {}

    @model_validator(mode="after")
    def _one_scaling_a_band(self) -> "ModelSpec":
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"a band occurs twice in {self.bands}")
        if self.gsd is not None and not 0 < self.gsd[0] <= self.gsd[1]:
            raise ValueError(f"the GSD {self.gsd} is not a range from the finest to the coarsest")
        if len(self.stats) != len(self.bands):
            raise ValueError(f"{len(self.bands)} bands but {len(self.stats)} scalings")
        return self

    def factor(self, gsd: float | None) -> int:
        """By which scenes of so many metres per pixel are enlarged, to about what the network sees.

        Raises:
            ModelError: they would show nothing of what it knows.
        """
        if gsd is None or self.sees is None:
            return 1
        factor = max(1, round(min(gsd / self.sees, 1e9)))
        if factor > _LARGEST_FACTOR:
            raise ModelError(
                f"a scene of {gsd:.3g} m would have to be enlarged {factor} times for the model '{self.name}', "
                f"which sees {self.sees:g} m; choose another model, or let it see less in its recipe"
            )
        return factor


def band_key(label: str) -> str:
    """A band label without case, punctuation and leading zeros: B04, b4 and B_04 are the same band."""
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", re.sub(r"[\W_]", "", label.lower()))


def load_sensor(name_or_file: str) -> Sensor:
    """Read a sensor, by its name in `configs/sensors` or from a TOML file."""
    return _load_config(Sensor, "sensors", name_or_file)


def load_legend(name_or_file: str) -> Legend:
    """Read a legend, by its name in `configs/legends` or from a TOML file."""
    return _load_config(Legend, "legends", name_or_file)


def config_names(kind: str) -> tuple[str, ...]:
    """The names in one folder of `configs`."""
    return tuple(sorted(p.stem for p in (_config_folder() / kind).glob("*.toml")))


SpecT = TypeVar("SpecT", bound=Spec)


def _load_config(spec: type[SpecT], kind: str, name_or_file: str) -> SpecT:
    path = _config_folder() / kind / f"{name_or_file}.toml"
    if name_or_file not in config_names(kind):
        path = Path(name_or_file)
        if path.suffix != ".toml" or not os.path.isfile(path):  # noqa: PTH113 - False for names that are too long
            what = f"{kind[:-1]} '{name_or_file}' is neither a known name nor a TOML file"
            raise ConfigError(f"{what}: {nearest(name_or_file, config_names(kind))}")
    return read_toml(spec, path)


def read_toml(spec: type[SpecT], path: Path) -> SpecT:
    """Read a value from a TOML file; paths in it count from the file's folder.

    Raises:
        ConfigError: the file cannot be read, or says what cannot be.
    """
    try:
        return spec.model_validate(tomllib.loads(read_text(path)), context={"folder": path.parent})
    except ValidationError as e:
        raise ConfigError(f"{path}: {explain(e, spec)}") from e
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not valid TOML: {e}") from e


def read_text(path: Path) -> str:
    """The text of a file; editors of Windows begin one with a byte order mark, which TOML does not know."""
    return path.read_text(encoding="utf-8-sig")


def explain(e: ValidationError, spec: type[BaseModel] | None = None) -> str:
    """The first finding of a validation, as part of a sentence, with the nearest key of `spec` to one it has not."""
    first = min(e.errors(), key=lambda error: error["type"] != "extra_forbidden")  # a misspelt key is missing too
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        meant = difflib.get_close_matches(str(first["loc"][-1]), _keys(spec, first["loc"][:-1]) if spec else [], n=1)
        return f"unknown key '{place}'; " + (
            f"did you mean '{meant[0]}'?" if meant else "remove it or correct its spelling"
        )
    return f"{place + ': ' if place else ''}{_said(first)}"


def _said(finding: ErrorDetails) -> str:
    """What is wrong with a value, in our words for what is wrong most often."""
    if finding["type"] == "missing":
        return "it is missing; add it"
    if finding["type"] == "union_tag_not_found":
        return "its kind is missing; add it"
    if finding["type"] == "union_tag_invalid":
        told = finding["ctx"]
        return f"the kind '{told['tag']}' is none of {told['expected_tags']}"
    if finding["type"] == "string_type":
        value = finding["input"]
        return f"{value} is no text; write it in quotes" if isinstance(value, int | float | date) else "it is no text"
    if finding["type"] == "tuple_type":
        return f"{finding['input']!r} is no list; write it in square brackets, with commas between"
    if finding["type"] in ("dict_type", "model_type"):
        return "it is no table; write { key = value }, or its name once in single brackets and its keys below"
    if finding["type"] == "string_pattern_mismatch":  # of a colour
        return f"{finding['input']!r} is no colour; write it as '#1b7837'"
    message, value = finding["msg"].removeprefix("Value error, "), finding["input"]
    return message.replace("Input", repr(value)[:40], 1) if isinstance(value, int | float | str) else message


def _keys(spec: type[BaseModel], place: tuple[int | str, ...]) -> set[str]:
    """The keys that exist at a place in a specification."""
    at = {spec}
    for part in place:
        inner = {m for model in at if part in model.model_fields for m in _models(model.model_fields[part].annotation)}
        if isinstance(part, str):  # a key; or the kind of one of several specifications
            at = inner or {
                m for m in at if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
            }
    return {key for model in at for key in model.model_fields}


def _models(annotation: Any) -> set[type[BaseModel]]:
    """The specifications in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*map(_models, get_args(annotation)))


def _config_folder() -> Path:
    """`configs` inside the installed package, or at the top of a checkout."""
    here = Path(__file__).parent
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
