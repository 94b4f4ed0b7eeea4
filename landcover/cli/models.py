"""`landcover models`: which models there are, what they are, and how to export one or make an empty one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from landcover.cli.console import print_json, print_table, say
from landcover.cli.options import Json, ModelFolder, OverwriteModel
from landcover.cli.parsing import parse_bands

if TYPE_CHECKING:
    from landcover.specs import Legend

app = typer.Typer(no_args_is_help=True, help="List, show and make models. Example: landcover models list")


@app.command("list")
def list_(json_: Json = False) -> None:
    """List the models that come with the package.

    Example: landcover models list
    """
    from landcover.models import DEFAULT_MODEL, embedded_models, load_model

    specs = [load_model(name).spec for name in embedded_models()]
    if json_:
        print_json([s.model_dump(mode="json") for s in specs])
        return
    rows = [
        [
            s.name + (" (default)" if s.name == DEFAULT_MODEL else ""),
            ", ".join(s.bands),
            ", ".join(s.legend.names),
            _gsd(s.gsd),
        ]
        for s in specs
    ]
    print_table(["model", "bands", "classes", "GSD"], rows, left=(0, 1, 2, 3))


@app.command()
def show(
    model: Annotated[str, Argument(metavar="MODEL", help="An embedded model's name, or a model folder.")],
    json_: Annotated[bool, Option("--json", help="Print its model.json.")] = False,
) -> None:
    """Show what a model is, after checking its folder: the card, the weights, and that both describe one network.

    Example: landcover models show landcover-6band
    """
    import json

    from landcover.models import CARD, load_model

    found = load_model(model)
    parameters = sum(p.numel() for p in found.network.parameters())
    if json_:
        print_json(json.loads((found.folder / CARD).read_text(encoding="utf-8")))
        return
    spec = found.spec
    facts = {
        "name": spec.name,
        "description": spec.description,
        "architecture": "; ".join([spec.architecture, *(f"{k} {_plain(v)}" for k, v in spec.hyperparameters.items())]),
        "parameters": f"{parameters:,}",
        "bands": ", ".join(spec.bands),
        "classes": ", ".join(f"{c.id} {c.name}" for c in spec.legend.classes),
        "GSD": _gsd(spec.gsd),
        "trained": "yes" if spec.trained else "no; predict needs --allow-untrained",
        "licence": spec.licence,
        "training": spec.training,
        "sha256": found.sha256,
        "folder": found.folder,
        "card": found.folder / "README.md" if (found.folder / "README.md").is_file() else "none",
    }
    for key, value in facts.items():
        typer.echo(f"{key}: {value}")
    for scene, figures in spec.accuracy.items():
        typer.echo(f"measured on {scene}: {', '.join(f'{_figure(k)} {_plain(v)}' for k, v in figures.items())}")


@app.command()
def init(
    architecture: Annotated[
        str, Option(help="unet (the classic one), pointwise, or one of segmentation-models-pytorch: smp-unet, fpn, …")
    ],
    bands: Annotated[list[str], Option(metavar="<str>", help="Common names, as red,nir.")],
    classes: Annotated[list[str], Option(metavar="<str>", help="Class names; their ids count from 1.")],
    out: ModelFolder,
    seed: Annotated[int, Option(help="The seed of the random weights.")] = 0,
    set_: Annotated[list[str] | None, Option("--set", help="An argument of the architecture, as width=16.")] = None,
    overwrite: OverwriteModel = False,
) -> None:
    """Write an untrained model, for tests and benchmarks; predict refuses it without --allow-untrained.

    Example: landcover models init --architecture pointwise --bands red,nir --classes a,b --seed 1 --out model
    """
    from landcover.models import init_model

    init_model(
        out,
        architecture=architecture,
        bands=_band_names(bands),
        classes=_names(classes),
        seed=seed,
        hyperparameters=_arguments(set_ or []),
        overwrite=overwrite,
    )
    say(f"Wrote the untrained model {out}")


@app.command("import")
def import_(
    folder: Annotated[
        Path, Argument(metavar="FOLDER", help="A folder that save_pretrained of segmentation-models-pytorch wrote.")
    ],
    bands: Annotated[
        list[str],
        Option(metavar="<str>", help="Common names, in the order of the network's channels, as red,green,blue."),
    ],
    out: ModelFolder,
    classes: Annotated[
        list[str] | None, Option(metavar="<str>", help="Class names, in the order of the scores; ids count from 1.")
    ] = None,
    legend: Annotated[str | None, Option(help="In place of --classes: a legend's name or TOML file.")] = None,
    mean: Annotated[
        str | None, Option(help="The mean of each band's reflectance by which inputs were normalised in training.")
    ] = None,
    stddev: Annotated[
        str | None,
        Option(help="The standard deviation, likewise; without both, the network sees reflectance as it is."),
    ] = None,
    gsd: Annotated[str | None, Option(help="Metres per pixel it was trained for, the finest and the coarsest.")] = None,
    overwrite: OverwriteModel = False,
) -> None:
    """Make a model of a network that segmentation-models-pytorch saved, by saying what its folder does not say.

    Example: landcover models import my-unet --bands red,green,blue --classes forest,water,other
    --mean .485,.456,.406 --stddev .229,.224,.225 --gsd 10,10 --out model
    """
    from landcover.pretrained import import_model

    made = import_model(
        folder,
        out,
        _band_names(bands),
        _legend(legend, classes),
        mean=_numbers("--mean", mean),
        stddev=_numbers("--stddev", stddev),
        gsd=_numbers("--gsd", gsd),
        overwrite=overwrite,
    )
    seen, named = ", ".join(made.spec.bands), ", ".join(made.spec.legend.names)
    say(f"Wrote the model {out}: {made.spec.architecture}, {seen} → {named}")


@app.command()
def export(
    model: Annotated[str, Argument(metavar="MODEL", help="An embedded model's name, or a model folder.")],
    out: Annotated[Path, Option("--out", "-o", help="The file to write.")],
    format_: Annotated[str, Option("--format", help="onnx, openvino or pt2 (torch.export).")] = "onnx",
    scene: Annotated[str | None, Option(help="Check the result on chips of this scene too.")] = None,
    sensor: Annotated[str | None, Option(help="The scene's sensor.")] = None,
    bands: Annotated[
        list[str] | None, Option(metavar="<str>", help="Which band of the scene is which, as red=4,nir=8.")
    ] = None,
    scale: Annotated[float | None, Option(help="Of the scene: reflectance = number × SCALE + offset.")] = None,
    offset: Annotated[float | None, Option(help="Of the scene: reflectance = number × scale + OFFSET.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", "-f", help="Replace a file that exists.")] = False,
) -> None:
    """Write a model as one graph, from reflectance to scores, for other programs.

    Example: landcover models export landcover-6band --format onnx --out landcover.onnx
    """
    from landcover.bands import Choice
    from landcover.export import export_model
    from landcover.models import load_model

    choice = Choice(sensor, parse_bands(bands), scale, offset)
    apart = export_model(load_model(model), out, format_, scene=scene, choice=choice, overwrite=overwrite)
    say(f"Wrote {out}; its scores lie within {apart:.1g} of the model's")


def _names(texts: list[str]) -> tuple[str, ...]:
    return tuple(name.strip() for name in ",".join(texts).split(","))


def _band_names(texts: list[str]) -> tuple[str, ...]:
    """Names of bands, without the numbers that other commands take with them."""
    from landcover.errors import ConfigError

    names = _names(texts)
    if any("=" in name for name in names):
        bare = ",".join(name.partition("=")[0] for name in names)
        raise ConfigError(f"--bands takes names alone here, in the order of the network's channels, as --bands {bare}")
    return names


def _legend(legend: str | None, classes: list[str] | None) -> "Legend":
    """The classes that are named, or those of a legend."""
    from landcover.errors import ConfigError
    from landcover.models import named_classes
    from landcover.specs import load_legend

    if legend is not None and classes is None:
        return load_legend(legend)
    if classes is not None and legend is None:
        return named_classes(_names(classes))
    raise ConfigError("the classes have to be named, by either --classes or --legend")


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read numbers with commas between."""
    from landcover.errors import ConfigError

    try:
        return None if text is None else tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} '{text}' is not numbers with commas between; write for example .1,.2") from None


def _arguments(pairs: list[str]) -> dict[str, object]:
    """Read NAME=VALUE, the value as JSON where it is JSON."""
    import json

    from landcover.errors import ConfigError

    arguments: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ConfigError(f"--set '{pair}' is not NAME=VALUE; write for example --set width=16")
        try:
            arguments[name] = json.loads(value)
        except (ValueError, RecursionError):
            arguments[name] = value
    return arguments


def _figure(key: str) -> str:
    """What a figure of a card is called."""
    return "macro-F1" if key == "macro_f1" else key.replace("f1_", "F1 ", 1).replace("_", " ")


def _plain(value: object) -> str:
    """A value of a card, as a person writes it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _gsd(gsd: tuple[float, float] | None) -> str:
    return "any" if gsd is None else f"{gsd[0]:g}–{gsd[1]:g} m"
