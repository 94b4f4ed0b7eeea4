"""Which model maps a scene, where none is named."""

from contextlib import suppress
from pathlib import Path

import pytest

from landcover import selection
from landcover.bands import Choice
from landcover.errors import BandError, ModelError, ResolutionError, SceneError
from landcover.models import Model, embedded_models, init_model, load_model, save_model
from landcover.selection import select_model
from tests.commands import landcover
from tests.scenes import UTM, digital_numbers, write_scene
from tests.test_pretrained import saved

SIX = ("blue", "green", "red", "nir", "swir16", "swir22")


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded models of six, four and three bands at 10 to 30 m, and of four bands at 1 m."""
    kinds = {
        "landcover-6band": (SIX, (10, 30)),
        "landcover-rgbn": (SIX[:4], (10, 30)),
        "landcover-rgb": (SIX[:3], (10, 30)),
        "landcover-aerial": (("red", "green", "blue", "nir"), (0.6, 1.5)),
    }
    found: dict[str, Model] = {}
    for name, (bands, gsd) in kinds.items():
        model = init_model(tmp_path / name, architecture="pointwise", bands=bands, classes=("a", "b"))
        told = {"name": name, "gsd": gsd, "trained": True, "accuracy": {"the moon": {"macro_f1": 0.5}}}
        save_model(tmp_path / name, model.spec.model_copy(update=told), model.network.state_dict())
        found[name] = load_model(tmp_path / name)
    monkeypatch.setattr(selection, "embedded_models", lambda: tuple(found))
    monkeypatch.setattr(selection, "load_model", found.__getitem__)


def scene_of(folder: Path, bands: tuple[str, ...], metres: float = 10) -> str:
    pixels = digital_numbers(20, 20, len(bands))
    return str(write_scene(folder / "scene.tif", pixels, names=bands, transform=UTM @ UTM.scale(metres / 10)))


@pytest.mark.parametrize(
    ("bands", "metres", "taken"),
    [
        (SIX, 10, "landcover-6band"),
        (SIX[:4], 10, "landcover-rgbn"),
        (SIX[:3], 30, "landcover-rgb"),
        (SIX[:4], 1, "landcover-aerial"),
    ],
)
@pytest.mark.usefixtures("embedded")
def test_the_first_model_that_suits_is_taken(tmp_path: Path, bands: tuple[str, ...], metres: float, taken: str) -> None:
    model, scene, why = select_model(None, scene_of(tmp_path, bands, metres), Choice())
    assert model.spec.name == taken
    assert tuple(b.name for b in scene.bands) == model.spec.bands
    if taken == "landcover-6band":
        assert why == ""
    else:
        assert f"Taking the model {taken}" in why
        assert "its macro-F1 is 0.50 on the moon" in why


@pytest.mark.parametrize("name", embedded_models())
def test_every_embedded_model_is_taken_for_what_it_is_meant_for(tmp_path: Path, name: str) -> None:
    spec = load_model(name).spec
    for metres in spec.gsd:
        model, _, _ = select_model(None, scene_of(tmp_path, spec.bands, metres), Choice())
        assert model.spec.name == name


@pytest.mark.parametrize("metres", [0.3, 1, 3, 4, 5, 6, 10, 20, 30, 60])
def test_infrared_is_not_left_unseen(tmp_path: Path, metres: float) -> None:
    """No model of colours alone is taken for a scene that has infrared, be its pixels what they are."""
    scene = scene_of(tmp_path, SIX[:4], metres)
    with suppress(SceneError):  # no model is for such pixels
        model, _, _ = select_model(None, scene, Choice())
        assert "nir" in model.spec.bands


@pytest.mark.usefixtures("embedded")
def test_a_scene_that_suits_none_is_refused_with_the_default_models_reason(tmp_path: Path) -> None:
    with pytest.raises(BandError, match="no band that is known to be 'blue'"):
        select_model(None, scene_of(tmp_path, ("red", "nir")), Choice())
    with pytest.raises(SceneError, match="pixels of 200 m, but the model 'landcover-6band'"):
        select_model(None, scene_of(tmp_path, SIX, 200), Choice())


@pytest.mark.parametrize(("metres", "suits"), [(4.9, False), (5, True), (60, True), (61, False)])
@pytest.mark.usefixtures("embedded")
def test_pixels_may_be_twice_as_fine_or_coarse_as_those_a_model_was_trained_for(
    tmp_path: Path, metres: float, suits: bool
) -> None:
    """Be it named or not. In the middle of a zone, 60 m on the map are 60.02 m on the ground."""
    scene, model = scene_of(tmp_path, SIX, metres), selection.load_model("landcover-6band")
    for asked in (None, model):
        assert select_model(asked, scene, Choice(), allow_resolution=True)[0].spec.name == "landcover-6band"
        if suits:
            assert select_model(asked, scene, Choice())[0].spec.name == "landcover-6band"
        else:
            with pytest.raises(ResolutionError, match="trained for 10–30 m"):
                select_model(asked, scene, Choice())


@pytest.mark.usefixtures("embedded")
def test_why_a_model_was_taken_is_why_the_default_was_not(tmp_path: Path) -> None:
    """Though others were tried between them."""
    _, _, why = select_model(None, scene_of(tmp_path, SIX[:3]), Choice())
    assert "no band that is known to be 'nir'" in why
    _, _, why = select_model(None, scene_of(tmp_path, SIX[:4], 1), Choice())
    assert "no band that is known to be 'swir16'" in why


@pytest.mark.usefixtures("embedded")
def test_a_scene_without_a_place_may_be_allowed_where_no_model_is_named(tmp_path: Path) -> None:
    path = str(write_scene(tmp_path / "scene.tif", digital_numbers(20, 20, 6), names=SIX, crs=None))
    with pytest.raises(SceneError, match="no coordinate reference system"):
        select_model(None, path, Choice())
    assert select_model(None, path, Choice(), allow_no_crs=True)[0].spec.name == "landcover-6band"


@pytest.mark.usefixtures("embedded")
def test_an_embedded_model_goes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies where the command is run."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    saved(Path("landcover-6band"), classes=2)
    model, _, assumed = select_model("landcover-6band", scene_of(tmp_path, SIX), Choice())
    assert (model.spec.bands, assumed) == (SIX, "")


def test_where_no_model_is_installed_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "embedded_models", tuple)
    with pytest.raises(ModelError, match="no model came with this installation; name one with --model"):
        select_model(None, scene_of(tmp_path, SIX), Choice())


def test_bands_are_named_in_any_script(tmp_path: Path, pointwise: Model) -> None:
    scene = scene_of(tmp_path, ("近红", "红", "КРАСНЫЙ"))
    for red, index in {"红": 2, "Красный": 3}.items():
        _, found, _ = select_model(pointwise, scene, Choice(bands={"red": red, "nir": "近红"}))
        assert [b.source.index for b in found.bands] == [index, 1]


@pytest.mark.usefixtures("embedded")
def test_a_model_that_wants_the_bands_of_the_scene_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    """Of colours alone one need not hear that infrared is missing."""
    with pytest.raises(SceneError, match="pixels of 200 m, but the model 'landcover-rgb'"):
        select_model(None, scene_of(tmp_path, SIX[:3], 200), Choice())
    write_scene(tmp_path / "scene.tif", digital_numbers(20, 20, 3), names=SIX[:3], scaled=False)
    with pytest.raises(BandError, match="does not say how its numbers become reflectance"):
        select_model(None, str(tmp_path / "scene.tif"), Choice())
    with pytest.raises(BandError, match="no band that is known to be 'blue'"):
        select_model(None, scene_of(tmp_path, ("red", "nir")), Choice(bands={"red": "1", "nir": "2"}))


@pytest.mark.usefixtures("embedded")
def test_another_model_does_not_help_a_scene_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that fails for one band, or two bands of one name, must not decide which model is taken."""
    scene = scene_of(tmp_path, SIX)
    real = selection.open_scene

    def fail_for_infrared(source: str, wanted: tuple[str, ...], *args, **kwargs):
        if "swir16" in wanted:
            raise SceneError("the server answers 503")
        return real(source, wanted, *args, **kwargs)

    monkeypatch.setattr(selection, "open_scene", fail_for_infrared)
    with pytest.raises(SceneError, match="503"):
        select_model(None, scene, Choice())
    monkeypatch.undo()
    twice = scene_of(tmp_path, ("blue", "green", "red", "nir", "nir"))
    with pytest.raises(BandError, match="more than one band 'nir'"):
        select_model(None, twice, Choice())


@pytest.mark.usefixtures("embedded")
def test_any_resolution_does_not_mean_any_model(tmp_path: Path) -> None:
    """What is allowed to be far from every model is first of all given to the one it is near to."""
    near, _, why = select_model(None, scene_of(tmp_path, SIX[:4], 1), Choice(), allow_resolution=True)
    assert near.spec.name == "landcover-aerial"
    far, _, why = select_model(None, scene_of(tmp_path, SIX, 200), Choice(), allow_resolution=True)
    assert far.spec.name == "landcover-6band"
    assert "pixels of 200 m" in why


@pytest.mark.usefixtures("embedded")
def test_the_choice_is_said_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = landcover(capsys, "predict", scene_of(tmp_path, SIX[:3]), "-o", tmp_path / "map.tif", "--device", "cpu")
    assert done.code == 0, done.err
    assert "Taking the model landcover-rgb, which sees blue, green, red" in done.err
