"""Networks saved by segmentation-models-pytorch: what they do not say is asked for, what cannot be honoured refused."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from landcover.errors import ModelError
from landcover.models import CARD, CONFIG, WEIGHTS, load_model, named_classes
from landcover.pretrained import adopt, import_model, is_pretrained
from tests.commands import landcover, refused
from tests.scenes import digital_numbers, read_map, write_scene

BANDS = ("red", "green", "blue")
LEGEND = named_classes(("forest", "water", "other"))


def saved(folder: Path, kind: type = smp.Unet, seed: int = 0, **more: Any) -> torch.nn.Module:
    """A small network with random weights, saved as its users save it."""
    torch.manual_seed(seed)
    usual = {"encoder_name": "mobilenet_v2", "encoder_weights": None, "classes": 3}
    network = kind(**usual | more).eval()
    network.save_pretrained(folder)
    return network


def edited(folder: Path, **more: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.mark.parametrize(
    "kind", [smp.Unet, smp.UnetPlusPlus, smp.FPN, smp.DeepLabV3Plus, smp.Linknet], ids=lambda kind: kind.__name__
)
def test_it_is_the_network_that_was_saved(tmp_path: Path, kind: type) -> None:
    network = saved(tmp_path / "n", kind)
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(adopt(tmp_path / "n", BANDS, LEGEND).network(x), network(x))


def test_a_scene_is_mapped_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The map is what the network says of the reflectance, and it is told what was assumed."""
    network = saved(tmp_path / "n")
    dn = digital_numbers(64, 96, bands=3)
    scene = write_scene(tmp_path / "scene.tif", dn, names=BANDS)
    legend = tmp_path / "legend.toml"
    numbers = {"forest": 7, "water": 3, "other": 9}
    legend.write_text(
        'name = "mine"\n'
        + "".join(f'[[classes]]\nid = {i}\nname = "{n}"\ncolor = "#0000{i:02x}"\n' for n, i in numbers.items())
    )
    done = landcover(
        capsys,
        *("predict", scene, "-o", tmp_path / "map.tif", "-m", tmp_path / "n", "--legend", legend),
        *("--bands", "red=2,green=1,blue=3", "--scale", "0.0001", "--device", "cpu", "--engine", "torch"),
    )
    assert "shown the reflectance of red, green, blue, in this order" in done.err
    reflectance = torch.from_numpy(dn[[1, 0, 2]].astype(np.float32) * np.float32(1e-4))
    with torch.inference_mode():
        scores = network(reflectance[None])[0]
    best = np.array(list(numbers.values()))[scores.argmax(0)]
    first, second = scores.topk(2, dim=0).values
    sure = (first - second > 1e-4).numpy()
    assert sure.mean() > 0.99
    assert (read_map(tmp_path / "map.tif") == best)[sure].all()


def test_its_network_is_converted_without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own does so, from what was told."""
    monkeypatch.setenv("LANDCOVER_CACHE", str(tmp_path / "cache"))
    saved(tmp_path / "n", classes=4)
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(64, 96, bands=3), names=BANDS)
    given = ("predict", scene, "-m", tmp_path / "n", "--legend", "default", "--bands", "red=1,green=2,blue=3")
    command = (sys.executable, "-m", "landcover", *given, "--device", "cpu", "--precision", "f32")
    for engine in ("openvino", "torch"):
        subprocess.run([*command, "-o", tmp_path / f"{engine}.tif", "--engine", engine], check=True)
    assert (read_map(tmp_path / "openvino.tif") == read_map(tmp_path / "torch.tif")).mean() > 0.99
    assert len(list((tmp_path / "cache" / "openvino").iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "does not say which classes its 3 scores are"),
        (("--legend", "default", "--sensor", "rgb"), "3 classes, but 4 are named"),
        (("--legend", "LEGEND"), "does not say which bands its 3 channels are"),
        (("--legend", "LEGEND", "--bands", "red=1,nir=2", "--scale", "1"), "3 channels, but 2 are named"),
        (("--legend", "LEGEND", "--sensor", "naip"), "not clear which bands of naip they are"),
    ],
)
def test_what_is_not_told_is_asked_for(
    tmp_path: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "n")
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(64, 64, bands=3), names=BANDS)
    legend = tmp_path / "three.toml"
    legend.write_text(
        'name = "three"\n'
        + "".join(f'[[classes]]\nid = {i}\nname = "{n}"\ncolor = "#00000{i}"\n' for i, n in enumerate("abc", 1))
    )
    given = tuple(str(legend) if word == "LEGEND" else word for word in more)
    assert said in refused(capsys, tmp_path, "predict", scene, "-o", tmp_path / "map.tif", "-m", tmp_path / "n", *given)


def test_a_sensor_with_as_many_bands_tells_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "n", in_channels=4, classes=4)
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(64, 64, bands=4), names=(*BANDS, "nir"))
    done = landcover(
        capsys,
        *("predict", scene, "-o", tmp_path / "map.tif", "-m", tmp_path / "n", "--legend", "default"),
        *("--sensor", "rgbn", "--device", "cpu", "--engine", "torch"),
    )
    assert "shown the reflectance of red, green, blue, nir, in this order" in done.err


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"_model_class": 5}, "does not name its architecture"),
        ({"_model_class": "Oracle"}, "architecture 'oracle' is not known"),
        ({"in_channels": "3"}, "'in_channels' is '3', not a number"),
        ({"classes": True}, "'classes' is True, not a number"),
        ({"activation": "sigmoid"}, "does not let classes exclude each other"),
        ({"aux_params": {"classes": 2}}, "second head"),
        ({"encoder_name": "resnet18"}, "belongs to another model"),
        ({"encoder_name": "hf-hub:someone/else"}, "would be fetched from elsewhere"),
        ({"pretrained_cfg": {"file": "/etc/passwd"}}, "has no argument 'pretrained_cfg'"),
        ({"decoder_channels": [2**40] * 5}, "more than networks have of anything"),
        ({"encoder_depth": -1}, "cannot be built"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_lies_or_cannot_be_honoured_is_refused(tmp_path: Path, edit: dict[str, Any], said: str) -> None:
    saved(tmp_path / "n")
    edited(tmp_path / "n", **edit)
    with pytest.raises(ModelError, match=said):
        _ = adopt(tmp_path / "n", BANDS, LEGEND).network


@pytest.mark.parametrize("activation", [None, "identity", "softmax", "softmax2d"])
def test_a_softmax_changes_no_map(tmp_path: Path, activation: str | None) -> None:
    saved(tmp_path / "n")
    edited(tmp_path / "n", activation=activation)
    assert adopt(tmp_path / "n", BANDS, LEGEND).spec.legend == LEGEND


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    """So that no stopped run goes on with them."""
    saved(tmp_path / "n")
    before = adopt(tmp_path / "n", BANDS, LEGEND)
    saved(tmp_path / "n", seed=1)
    after = adopt(tmp_path / "n", BANDS, LEGEND)
    assert after.digest != before.digest
    assert after.sha256 == hashlib.sha256((tmp_path / "n" / WEIGHTS).read_bytes()).hexdigest()


def test_a_folder_may_have_a_name_that_no_model_can_have(tmp_path: Path) -> None:
    saved(tmp_path / "网络")
    assert adopt(tmp_path / "网络", BANDS, LEGEND).spec.name == "pretrained"


@pytest.mark.parametrize("content", ["", "[1]", "[" * 100_000, '{"_model_class": "\\ud800"}'])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    saved(tmp_path / "n")
    (tmp_path / "n" / CONFIG).write_text(content)
    with pytest.raises(ModelError, match=CONFIG):
        adopt(tmp_path / "n", BANDS, LEGEND)


def test_one_class_is_no_map(tmp_path: Path) -> None:
    saved(tmp_path / "n", classes=1)
    with pytest.raises(ModelError, match="told by a threshold"):
        adopt(tmp_path / "n", BANDS, named_classes(("water",)))


def test_importing_writes_a_model_that_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Story: what a folder does not say is said once, and the model is like any other then."""
    network = saved(tmp_path / "my net")
    given = ("models", "import", tmp_path / "my net", "--bands", "red,green,blue", "--gsd", "10,20")
    landcover(
        capsys,
        *(*given, "--classes", "forest,water,other", "-o", tmp_path / "model"),
        *("--mean", ".485,.456,.406", "--stddev", ".229,.224,.225"),
    )
    model = load_model(tmp_path / "model")
    assert model.spec.name == "my-net"
    assert (model.spec.bands, model.spec.legend.names) == (BANDS, LEGEND.names)
    assert [(s.mean, s.stddev) for s in model.spec.stats] == [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]
    assert (model.spec.gsd, model.stride) == ((10, 20), 32)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.network(x), network(x))
    again = (*given, "--legend", "default", "-o", tmp_path / "model")
    assert "holds a model already" in refused(capsys, tmp_path, *again)
    assert "3 classes, but 4 are named" in refused(capsys, tmp_path, *again, "-f")
    assert load_model(tmp_path / "model").sha256 == model.sha256


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--classes", "a,b,c", "--mean", "0,0,0"), "both"),
        (("--classes", "a,b,c", "--mean", "0,0", "--stddev", "1,1"), "one number for each"),
        (("--classes", "a,b,c", "--mean", "0,0,x", "--stddev", "1,1,1"), "not numbers"),
        (("--classes", "a,b,c", "--mean", "0,0,nan", "--stddev", "1,1,1"), "finite"),
        (("--classes", "a,b,c", "--mean", "0,0,0", "--stddev", "1,1,0"), "greater than 0"),
        (("--classes", "a,b,c", "--gsd", "10"), "--gsd takes two numbers"),
        (("--classes", "a,b,c", "--gsd", "20,10"), "range from the finest"),
        (("--classes", "a,a,b"), "occurs twice"),
        (("--classes", "a,b,"), "make no legend"),
        (("--classes", "a,b,c", "--bands", "nir=4"), "takes names alone here"),
        ((), "by either --classes or --legend"),
        (("--classes", "a,b,c", "--legend", "default"), "by either --classes or --legend"),
    ],
)
def test_importing_checks_what_it_is_told(
    tmp_path: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "n")
    given = ("models", "import", tmp_path / "n", "-o", tmp_path / "model", "--bands", "red,green,blue", *more)
    assert said in refused(capsys, tmp_path, *given)
    assert not (tmp_path / "model").exists()


def test_what_is_imported_makes_no_folders_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "n")
    place = ("-o", tmp_path / "nowhere" / "model", "--bands", "red,green,blue", "--classes", "a,b,c")
    assert "nowhere does not exist; make it first" in refused(
        capsys, tmp_path, "models", "import", tmp_path / "n", *place
    )


def test_the_stride_of_what_is_imported_is_on_its_card(tmp_path: Path) -> None:
    saved(tmp_path / "n", encoder_depth=3, decoder_channels=(32, 16, 8))
    assert import_model(tmp_path / "n", tmp_path / "model", BANDS, LEGEND).spec.stride == 8


def test_a_folder_with_a_card_is_read_by_it(tmp_path: Path) -> None:
    """Also where the configuration that it was made of lies in it."""
    saved(tmp_path / "n")
    import_model(tmp_path / "n", tmp_path / "model", BANDS, LEGEND)
    (tmp_path / "model" / CONFIG).write_bytes((tmp_path / "n" / CONFIG).read_bytes())
    assert is_pretrained(tmp_path / "n")
    assert not is_pretrained(tmp_path / "model")


def test_other_folders_are_not_imported(tmp_path: Path) -> None:
    saved(tmp_path / "n")
    import_model(tmp_path / "n", tmp_path / "model", BANDS, LEGEND)
    with pytest.raises(ModelError, match="not written by save_pretrained"):
        import_model(tmp_path / "model", tmp_path / "other", BANDS, LEGEND)
    with pytest.raises(ModelError, match="is the folder that is read"):
        import_model(tmp_path / "n", tmp_path / "n", BANDS, LEGEND)
    (tmp_path / "n" / WEIGHTS).write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="not a safetensors file"):
        import_model(tmp_path / "n", tmp_path / "other", BANDS, LEGEND)
    assert not (tmp_path / "other" / CARD).exists()


def test_other_commands_say_how_it_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "n")
    (tmp_path / "s").mkdir()
    scene = write_scene(tmp_path / "s" / "scene.tif", digital_numbers(64, 64, bands=3), names=BANDS)
    for command in (
        ("models", "show", tmp_path / "n"),
        ("models", "export", tmp_path / "n", "-o", tmp_path / "x.onnx"),
        ("batch", scene.parent, "-o", tmp_path / "out", "-m", tmp_path / "n", "--dry-run"),
    ):
        assert "landcover models import" in refused(capsys, tmp_path, *command)
