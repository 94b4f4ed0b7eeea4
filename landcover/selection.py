"""Which model maps a scene: the one that is named, or the best embedded one that the scene has the bands for."""

from pathlib import Path

from landcover.bands import Choice
from landcover.errors import ModelError, OtherBandsError, ResolutionError
from landcover.models import EMBEDDED_BY_RANK, Model, embedded_models, load_model
from landcover.pretrained import adopt_for, is_pretrained
from landcover.scene import Scene, open_scene
from landcover.specs import Legend

_ABOUT = 1.01
"""Pixels of 60 m on a map are a little more or less on the ground, by where they lie in its projection."""


def select_model(
    model: Model | str | Path | None,
    source: str,
    choice: Choice,
    *,
    legend: Legend | None = None,
    allow_no_crs: bool = False,
    allow_resolution: bool = False,
) -> tuple[Model, Scene, str]:
    """Open a scene for a model.

    Args:
        model: a loaded one, a name or a folder; None for the first embedded one that the scene suits.
        source: the scene.
        choice: what the user says about bands and scaling.
        legend: what the user says about classes; a folder of segmentation-models-pytorch needs it.
        allow_no_crs: accept a scene that is not placed on the earth.
        allow_resolution: accept a scene far from the resolution the model was trained for.

    Returns:
        The model, the scene with the bands it wants, and a sentence, or "": why it was taken if it is not the default,
        or what was assumed of it.

    Raises:
        ModelError: the model cannot be used, or there is none.
        SceneError, BandError: the scene cannot be read, or it suits no model; then the error is that of the first
            model it has the bands for, or else the default model's.
    """
    if model is not None:
        named, assumed = _named(model, choice, legend)
        scene = open_scene(source, named.spec.bands, choice, allow_no_crs=allow_no_crs)
        if not allow_resolution:
            _check_resolution(scene, named)
        return named, scene, assumed
    names = [name for name in EMBEDDED_BY_RANK if name in embedded_models()]
    if not names:
        raise ModelError("no model came with this installation; name one with --model, or install landcover again")
    errors: list[OtherBandsError | ResolutionError] = []
    others: list[tuple[Model, Scene]] = []  # that it has the bands for, and other pixels
    for embedded in map(load_model, names):
        try:
            scene = open_scene(source, embedded.spec.bands, choice, allow_no_crs=allow_no_crs)
            others.append((embedded, scene))
            _check_resolution(scene, embedded)
        except (OtherBandsError, ResolutionError) as e:  # of anything else another model would suffer too
            errors.append(e)
            continue
        return embedded, scene, f"{_worth(embedded)} ({errors[0]})" if errors else ""
    error = next((e for e in errors if isinstance(e, ResolutionError)), errors[0])
    if allow_resolution and others:
        embedded, scene = others[0]
        return embedded, scene, f"{_worth(embedded)} ({error})"
    raise error


def _named(model: Model | str | Path, choice: Choice, legend: Legend | None) -> tuple[Model, str]:
    """A model that the user names, and what is assumed of it."""
    if isinstance(model, Model):
        return model, ""
    if str(model) not in embedded_models() and is_pretrained(Path(model)):
        return adopt_for(Path(model), choice, legend)
    return load_model(model), ""


def _check_resolution(scene: Scene, model: Model) -> None:
    """Refuse a scene whose pixels are more than twice as fine or coarse as any the model was trained for."""
    if scene.gsd is None or model.spec.gsd is None:
        return
    finest, coarsest = model.spec.gsd
    if not finest / 2 / _ABOUT <= scene.gsd <= coarsest * 2 * _ABOUT:
        raise ResolutionError(
            f"{scene.name} has pixels of {scene.gsd:.3g} m, but the model '{model.spec.name}' was trained for "
            f"{finest:g}–{coarsest:g} m; resample the scene, choose another model, or add --allow-resolution"
        )


def _worth(model: Model) -> str:
    """What a model that stands in for the default one sees, and how well it does."""
    spec = model.spec
    measured = ", ".join(f"{f['macro_f1']:.2f} on {title}" for title, f in spec.accuracy.items() if "macro_f1" in f)
    worth = f"; its macro-F1 is {measured}" if measured else ""
    return f"Taking the model {spec.name}, which sees {', '.join(spec.bands)}{worth}"
