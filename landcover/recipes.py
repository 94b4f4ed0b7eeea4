"""Training recipes: where samples come from, how they are split by place, and how a network learns from them."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from landcover.specs import PlainName, Spec, read_toml


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    """A path as it is written in a recipe, counted from the recipe's folder."""
    return (info.context or {}).get("folder", Path()) / path


def _source_from_folder(name: str, info: ValidationInfo) -> str:
    """A scene's name: an address as it is, a path counted from the recipe's folder."""
    return name if "://" in name or name.startswith("/vsi") else str(_from_folder(Path(name), info))


def _name_or_from_folder(name: str, info: ValidationInfo) -> str:
    """A name that is known elsewhere, or a path counted from the recipe's folder if it is that of a file."""
    path = str(_from_folder(Path(name), info))
    return path if name.endswith(".toml") or os.path.isfile(path) else name  # noqa: PTH113 - False for names that are too long


def _model_from_folder(name: str, info: ValidationInfo) -> str:
    """The name of an embedded model, or a folder of a model or of folds, counted from the recipe's folder."""
    path = _from_folder(Path(name), info)
    there = any(os.path.isfile(path / document) for document in ("model.json", "folds.json"))  # noqa: PTH113 - so here
    return str(path) if there else name


FilePath = Annotated[Path, AfterValidator(_from_folder)]
SceneName = Annotated[str, AfterValidator(_source_from_folder)]
ModelName = Annotated[str, AfterValidator(_model_from_folder)]
NameOrPath = Annotated[str, AfterValidator(_name_or_from_folder)]
Share = Annotated[float, Field(ge=0, le=1)]


class Source(Spec):
    """Where labelled pixels come from.

    Attributes:
        classes: what a label's value or name stands for, a class of the legend or "ignore"; empty where labels are
            class ids or names already. Names of the legend's classes need not be in it, ids do. Nodata is always
            ignored, and 0 where nothing is said of it.
        weight: how often a chip of this source is drawn, relative to those of the others.
    """

    classes: dict[str, str] = Field(default_factory=dict)
    weight: Annotated[float, Field(gt=0)] = 1.0


class PackSource(Source):
    """Arrays of chips in one NumPy file.

    Attributes:
        path: the `.npz`; images (n, bands, height, width), valid (n, height, width) bool with True = usable, labels
            (n, height, width) integers, and group (n,) the place of each chip.
        bands: common names of the channels, in order.
        scale, offset: reflectance = number * scale + offset.
        gsd: metres per pixel; None if it is not known.
        images, valid, labels, group: what these arrays are called in the file.
    """

    kind: Literal["pack"]
    path: FilePath
    bands: tuple[str, ...]
    scale: float
    offset: float = 0.0
    gsd: Annotated[float, Field(gt=0)] | None = None
    images: str = "images"
    valid: str = "valid"
    labels: str = "labels"
    group: str = "group"


class ImageSource(Source):
    """What the sources that are images say of their bands, as `landcover predict` would be told.

    Attributes:
        sensor, bands, scale, offset: as on the command line.
    """

    sensor: NameOrPath | None = None
    bands: dict[str, str] | None = None
    scale: float | None = None
    offset: float | None = None

    @field_validator("bands", mode="before")
    @classmethod
    def _numbers_as_text(cls, bands: Any) -> Any:
        return {k: str(v) for k, v in bands.items()} if isinstance(bands, dict) else bands


class SceneSource(ImageSource):
    """A scene, with a raster of labels on any grid, or with polygons or points.

    Attributes:
        scene: whatever `landcover predict` takes.
        labels: a raster of class ids, or a vector file; None for a scene without labels, to learn from a teacher.
        column: of the vector file, with the class; what no shape covers is ignored.
        layer: of the vector file; None for its first.
        band: of the raster of labels.
    """

    kind: Literal["scene"]
    scene: SceneName
    labels: FilePath | None = None
    column: str = "class"
    layer: str | None = None
    band: Annotated[int, Field(ge=1)] = 1


class ChipsSource(ImageSource):
    """A folder of images and one of label rasters with the same names.

    Attributes:
        images, labels: the folders, or twice the same one; images in one sub-folder show one place.
        band: of the raster of labels.
        gsd: metres per pixel, of images that do not tell it.
    """

    kind: Literal["chips"]
    gsd: Annotated[float, Field(gt=0)] | None = None
    images: FilePath
    labels: FilePath
    band: Annotated[int, Field(ge=1)] = 1


AnySource = Annotated[PackSource | SceneSource | ChipsSource, Field(discriminator="kind")]


class Test(SceneSource):
    """A labelled scene that is never learned from, and that the finished model is scored on.

    Attributes:
        title: what the card calls it.
        only: score this class against all others; None for all classes.
    """

    kind: Literal["scene"] = "scene"
    title: str
    labels: FilePath
    only: str | None = None


class Split(Spec):
    """Which chips are held out: by place, never at random, because neighbouring pixels are alike.

    Attributes:
        by: "group" (a pack's groups, an image's folder, a scene), "scene" (a source file), or "blocks" on a grid, which
            all scenes of one CRS and pixel size share.
        validation: about the share of labels in the places held out, which is never more than about half; 0 for none.
        block: side of a block, in pixels.
        buffer: chips this near to held-out ones of their grid, in its pixels, are left out; those upon held-out ones
            are left out always, also where their grid is another one.
    """

    by: Literal["group", "scene", "blocks"] = "group"
    validation: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    block: Annotated[int, Field(ge=1)] = 256
    buffer: Annotated[int, Field(ge=0)] = 0


class NetworkRecipe(Spec):
    """What is trained.

    Attributes:
        architecture: `unet`, `pointwise`, or a name of segmentation-models-pytorch.
        hyperparameters: of the architecture.
        encoder_weights: a file of weights of the encoder, or "imagenet" to fetch them; None for random ones.
        freeze_encoder: leave the encoder as it is.
    """

    architecture: str = "unet"
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    encoder_weights: str | None = None
    freeze_encoder: bool = False

    @model_validator(mode="before")
    @classmethod
    def _arguments_in_their_place(cls, value: Any) -> Any:
        for name in ("encoder_name", "encoder_depth", "width", "depth"):
            if isinstance(value, dict) and name in value:
                example = f"{{ {name} = {json.dumps(value[name], default=str)} }}"
                raise ValueError(f"{name} is an argument of the architecture; write hyperparameters = {example}")
        return value

    @field_validator("encoder_weights")
    @classmethod
    def _weights_from_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value in (None, "imagenet") else str(_from_folder(Path(value), info))


class Augmentation(Spec):
    """How chips are varied, so that what is learned holds for other sensors, seasons and resolutions.

    Attributes:
        size: side of the square that is cut out, in pixels.
        gsd: metres per pixel that chips are made to look like, the finest and the coarsest; None for about what the
            model sees.
        zoom: how much finer than the chip that square may be, least and most, where `gsd` or the chip's is not known.
        gain: how far a band may be brighter or darker, as a share; the same again for all bands together.
        haze: the most reflectance that is added to the shortest wave, and less to longer ones, as in the air.
        noise: the most noise of a single pixel, as a share.
        holes: the share of chips in which pixels and blocks are made unusable.
        drop: the share of chips that lose one band.
        mix: the share of chips into which a rectangle of another place is set.
        turbid: the share of chips whose water is mixed with land, as mud and shallows do.
        waters: the share of chips whose water gets the colour of other water, from clear and black to brown.
        lakes: the share of chips on which lakes of such colours are painted.
    """

    size: Annotated[int, Field(ge=16, le=2048)] = 96
    gsd: tuple[Annotated[float, Field(gt=0)], float] | None = None
    zoom: tuple[Annotated[float, Field(ge=0.1)], Annotated[float, Field(le=10)]] = (1.0, 1.0)
    gain: Share = 0.1
    haze: Share = 0.12
    noise: Share = 0.03
    holes: Share = 0.3
    drop: Share = 0.0
    mix: Share = 0.0
    turbid: Share = 0.0
    waters: Share = 0.0
    lakes: Share = 0.0

    @model_validator(mode="after")
    def _ranges(self) -> "Augmentation":
        for name, (low, high) in (("zoom", self.zoom), ("gsd", self.gsd or (1, 1))):
            if low > high:
                raise ValueError(f"{name} {[low, high]} is not a range from the least to the most")
        return self


class Loop(Spec):
    """How a network learns.

    Attributes:
        steps, batch: how many batches, and of how many chips; usually 400 steps where a model is refined.
        rate, decay: of AdamW; the rate is usually 2e-4 where a model is refined.
        warmup: the share of the steps in which the rate rises.
        average: how much of the moving average of the weights remains at each step.
        balance: 0 counts all pixels alike, 1 all classes alike.
        smoothing: of the labels.
        dice: the weight of the Dice loss beside the cross-entropy's 1.
        clip: the largest norm of the gradient.
        precision: "f32", "bf16", or "auto" for bf16 where the processor computes in it.
        patience: stop after so many evaluations without a better macro-F1, and take the best; 0 to take the last.
        evaluations: about how often the held-out places are looked at, and a checkpoint is written.
        seed: of everything that is random.
    """

    steps: Annotated[int, Field(ge=1)] = 1500
    batch: Annotated[int, Field(ge=1, le=100_000)] = 16
    rate: Annotated[float, Field(gt=0, le=1e30)] = 1e-3
    decay: Annotated[float, Field(ge=0)] = 0.02
    warmup: Share = 0.05
    average: Annotated[float, Field(ge=0, lt=1)] = 0.995
    balance: Share = 0.6
    smoothing: Share = 0.05
    dice: Annotated[float, Field(ge=0)] = 0.5
    clip: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "f32", "bf16"] = "auto"
    patience: Annotated[int, Field(ge=0)] = 0
    evaluations: Annotated[int, Field(ge=1)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @property
    def between(self) -> int:
        """Steps from one evaluation to the next."""
        return max(1, self.steps // self.evaluations)


HELD_OUT = "places held out"
"""What a card calls the places that were held out; no test can be called so."""

GENTLE = {"steps": 400, "rate": 2e-4}
"""What is usual where a model is refined."""


class Teacher(Spec):
    """Models whose mean opinion is learned beside the labels, and where there are none.

    Attributes:
        models: names of embedded models, or model folders; of the same classes. With `--folds`, also folders of
            cross-validations: each fold learns from their models of the same fold.
        weight: of their opinion in the loss, from 0 to 1; the labels have the rest.
    """

    models: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    weight: Share = 0.7


class Recipe(Spec):
    """How a model is made.

    Attributes:
        name, description, licence: for its card.
        credits: of the data, for its card.
        failures: where it is known to fail, for its card.
        unseen: what it was never shown, for its card.
        bands: common names; None for those of the model that is refined.
        legend: its name or TOML file; None for that of the model that is refined, or the default.
        gsd: metres per pixel, the finest and the coarsest it is meant for.
        sees: metres per pixel that the network is shown; coarser images are enlarged to about that. None for any.
        chip: side of the chips that samples are kept in, in pixels.
        store: how the weights are stored, "float32", "float16" or "int8"; a file is half, or a quarter of the first.
        temperature: scores are divided by it, so that confidences are honest; None to find it on the held-out places.
    """

    name: PlainName
    description: str = ""
    licence: str = "other"
    credits: str = ""
    failures: str = ""
    unseen: str = (
        "Anything but the places, seasons and sensors above. There its accuracy is unknown, not good: label some "
        "pixels of your own scene and compare."
    )
    bands: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    legend: NameOrPath | None = None
    gsd: tuple[float, float] | None = None
    sees: Annotated[float, Field(gt=0)] | None = None
    chip: Annotated[int, Field(ge=16, le=4096)] = 128
    store: Literal["float32", "float16", "int8"] = "float16"
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = None
    sources: Annotated[tuple[AnySource, ...], Field(min_length=1)]
    tests: tuple[Test, ...] = ()
    split: Split = Split()
    network: NetworkRecipe = NetworkRecipe()
    augmentation: Augmentation = Augmentation()
    loop: Loop = Loop()
    teacher: Teacher | None = None

    def for_refining(self) -> "Recipe":
        """The recipe with what suits a model that has learned already, where it does not say otherwise."""
        gentle = {k: v for k, v in GENTLE.items() if k not in self.loop.model_fields_set}
        return self.model_copy(update={"loop": self.loop.model_copy(update=gentle)})

    @field_validator("sources", "tests", mode="before")
    @classmethod
    def _as_many(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            raise ValueError(f"there may be several; write [[{info.field_name}]], in two pairs of brackets")
        return value

    @model_validator(mode="after")
    def _something_to_learn(self) -> "Recipe":
        unlabelled = [s.scene for s in self.sources if isinstance(s, SceneSource) and s.labels is None]
        if unlabelled and self.teacher is None:
            raise ValueError(f"{unlabelled[0]} has no labels; name them, or a [teacher] to learn from")
        return self

    @model_validator(mode="after")
    def _no_title_twice(self) -> "Recipe":
        titles = [HELD_OUT, *(t.title for t in self.tests)]
        if twice := [t for t in titles if titles.count(t) > 1]:
            raise ValueError(f"the title '{twice[0]}' occurs twice on the card; call the test otherwise")
        return self


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: the file cannot be read, has an unknown key, or says what cannot be.
    """
    return read_toml(Recipe, path)
