"""Model folders: what is written is read back; what was altered, carries code or lies is refused."""

import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from landcover.errors import ModelError, OutputError
from landcover.models import (
    CARD,
    EMBEDDED,
    WEIGHTS,
    Model,
    check_folder,
    embedded_models,
    init_model,
    load_model,
    save_model,
)
from landcover.network import architectures, build_network, total_stride
from landcover.planning import Options, make_plan
from landcover.prediction import predict
from landcover.specs import load_legend
from tests.commands import landcover, refused, tree
from tests.scenes import digital_numbers, read_map, write_scene


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An untrained one whose stride is 4."""
    arguments = {"width": 4, "depth": 2}
    folder = tmp_path_factory.mktemp("unet")
    return init_model(folder, architecture="unet", bands=("red", "nir"), classes=("a", "b"), hyperparameters=arguments)


@pytest.mark.parametrize("name", embedded_models())
def test_embedded_models_are_whole(name: str) -> None:
    model = load_model(name)
    assert model.spec.name == name
    assert model.spec.trained
    assert model.spec.licence != "other"
    assert model.spec.legend == load_legend("default")
    assert model.network(torch.zeros(1, len(model.spec.bands), 64, 64)).shape == (1, 4, 64, 64)


def test_the_embedded_models_are_small() -> None:
    """They are in every wheel, and in every container of a cluster."""
    assert sum(p.stat().st_size for p in EMBEDDED.rglob("*") if p.is_file()) < 25e6


@pytest.mark.parametrize("name", [*embedded_models(), "pointwise"])
def test_a_card_says_what_the_schema_of_mlm_asks_for(pointwise: Model, name: str) -> None:
    """The bands of its input are told as those of the item too, and no hyperparameters where there are none.

    Its classes are those of the classification extension v1.1, which asks for a description; v2 asks for a name.
    """
    folder = pointwise.folder if name == "pointwise" else EMBEDDED / name
    told = json.loads((folder / CARD).read_text())["properties"]
    for described in told["mlm:output"][0]["classification:classes"]:
        assert described.keys() == {"value", "name", "description", "color_hint"}
    assert [band["name"] for band in told["bands"]] == told["mlm:input"][0]["bands"]
    assert told.get("mlm:hyperparameters") != {}


def test_the_card_of_a_model_that_nobody_described_is_a_valid_item(tmp_path: Path, pointwise: Model) -> None:
    silent = pointwise.spec.model_copy(update={"description": ""})
    save_model(tmp_path / "silent", silent, pointwise.network.state_dict())
    assert "description" not in json.loads((tmp_path / "silent" / CARD).read_text())["properties"]
    assert load_model(tmp_path / "silent").spec == silent


def test_what_is_saved_is_loaded(tmp_path: Path, unet: Model) -> None:
    save_model(tmp_path / "copy", unet.spec, unet.network.state_dict())
    copy = load_model(tmp_path / "copy")
    assert copy.spec == unet.spec
    x = torch.randn(1, 2, 16, 16)
    assert torch.equal(copy.network(x), unet.network(x))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not name files that are open")
def test_the_card_comes_last_and_no_file_is_half_written(
    tmp_path: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the disk under another name is renamed."""
    did: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def sync(number: int) -> None:
        did.append(Path(f"/proc/self/fd/{number}").readlink().name)
        fsync(number)

    def replace(self: Path, target: Path) -> Path:
        assert did[-1] == self.name != target.name
        did[-1] = target.name
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    save_model(tmp_path / "m", pointwise.spec, pointwise.network.state_dict())
    assert did == [WEIGHTS, CARD]
    assert tree(tmp_path / "m") == set(did)


def test_a_full_disk_is_told_and_an_earlier_model_stays(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    how = {"architecture": "pointwise", "bands": ("red",), "classes": ("a", "b"), "overwrite": True}
    for out in (folder, tmp_path / "new"):
        with pytest.raises(OutputError, match="cannot be written: No space left"):
            init_model(out, **how)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert tree(tmp_path / "new") == set()


@pytest.mark.parametrize(("store", "bits"), [("float32", 32), ("float16", 16), ("int8", 8)])
def test_weights_are_stored_in_fewer_bits(tmp_path: Path, store: str, bits: int) -> None:
    """What is read back is as near as the bits allow, and storing it again changes nothing."""
    made = init_model(tmp_path / "m", architecture="unet", bands=("red", "nir"), classes=("a", "b"))
    weights = made.network.state_dict()
    save_model(tmp_path / "copy", made.spec, weights, store=store)
    copy = load_model(tmp_path / "copy")
    size = (copy.folder / WEIGHTS).stat().st_size
    assert 0.98 < size / (sum(w.numel() for w in weights.values()) * bits / 8) < 1.05
    read = copy.network.state_dict()
    for name, w in weights.items():
        most = w.abs().amax(dim=(1, 2, 3), keepdim=True) if w.ndim == 4 else w.abs()
        step = {"float32": 0, "float16": most * 2**-11 + 2**-25, "int8": most / 254 * 1.001 + 2**-25}[store]
        if w.ndim < 4 and store == "int8":
            step = most * 2**-11 + 2**-25
        assert bool(((read[name] - w).abs() <= step).all()), name
    save_model(tmp_path / "again", made.spec, read, store=store)
    again = load_model(tmp_path / "again").network.state_dict()
    assert all(torch.equal(again[name], w) for name, w in read.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("w_scale"), "'w' is stored in int8 without a scale that fits it"),
        (lambda s: s.update(w_scale=torch.ones(64, 1, 1, 1, dtype=torch.int64)), "without a scale that fits it"),
        (lambda s: s.update(w_scale=torch.ones(63, 1, 1, 1)), "without a scale that fits it"),
        (lambda s: s.update(w_scale=torch.ones(64)), "without a scale that fits it"),
        (lambda s: s.update(w_scale=torch.ones(64, 64, 1, 1)), "without a scale that fits it"),
        (lambda s: s["w_scale"].fill_(float("nan")), "'w' holds values that are no finite numbers"),
        (lambda s: s.update(w=s["w"].to(torch.float8_e4m3fn)), "'w' is stored in float8_e4m3fn, which is not known"),
        (lambda s: s.update(b=torch.zeros(3, dtype=torch.complex64)), "'b' is stored in complex64"),
    ],
)
def test_stored_weights_that_are_not_what_they_should_be(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], said: str
) -> None:
    from safetensors.torch import save_file

    from landcover.weights import read_weights, to_store

    stored = to_store({"w": torch.randn(64, 64, 3, 3)}, "int8")
    change(stored)
    save_file(stored, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=said):
        read_weights(tmp_path / "w.safetensors")


def test_whole_numbers_are_no_kernel(folder: Path) -> None:
    """They have the shape that is wanted."""
    from safetensors.torch import load_file, save_file

    save_file({k: w.long() for k, w in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    edit(folder, _new_checksum(folder))
    with pytest.raises(ModelError, match=r"should be of another kind than torch\.int64"):
        _ = load_model(folder).network


def _new_checksum(folder: Path) -> Callable[[dict[str, Any]], Any]:
    told = {"file:checksum": "1220" + hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
    return lambda card: card["assets"]["weights"].update(told)


def test_scores_of_another_size_are_refused(tmp_path: Path) -> None:
    arguments = {"encoder_name": "resnet18", "decoder_segmentation_channels": 32}
    init_model(tmp_path / "m", architecture="fpn", bands=("red",), classes=("a", "b"), hyperparameters=arguments)
    edit(tmp_path / "m", lambda c: c["properties"]["mlm:hyperparameters"].update({"upsampling": 2}))
    with pytest.raises(ModelError, match="into one score a pixel"):
        _ = load_model(tmp_path / "m").network


def test_a_model_that_sees_next_to_nothing_is_refused(tmp_path: Path, folder: Path) -> None:
    edit(folder, lambda c: c["properties"].update({"landcover:sees": 0.01}))
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(20, 20))
    with pytest.raises(ModelError, match="would have to be enlarged 1000 times"):
        make_plan(Options(scene, tmp_path / "map.tif", folder, allow_untrained=True))


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    hashes = [
        init_model(tmp_path / f"{i}", architecture="pointwise", bands=("red",), classes=("a", "b"), seed=seed).sha256
        for i, seed in enumerate((7, 7, 8))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_making_a_model_leaves_the_random_numbers_of_others_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    init_model(tmp_path / "m", architecture="pointwise", bands=("red",), classes=("a", "b"), seed=1)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("name", embedded_models())
def test_the_stride_on_the_card_is_that_of_the_network(name: str) -> None:
    spec = load_model(name).spec
    assert spec.stride == total_stride(spec.architecture, spec.hyperparameters, load_model(name).network)


@pytest.mark.parametrize(("stride", "fits"), [(8, True), (4, True), (2, False), (6, False)])
def test_a_card_may_tell_a_multiple_of_the_stride(tmp_path: Path, unet: Model, stride: int, fits: bool) -> None:
    save_model(tmp_path / "m", unet.spec.model_copy(update={"stride": stride}), unet.network.state_dict())
    if fits:
        _ = load_model(tmp_path / "m").network
    else:
        with pytest.raises(ModelError, match=f"stride is {stride}, but it is 4"):
            _ = load_model(tmp_path / "m").network


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_the_classic_unet_halves_and_doubles(depth: int) -> None:
    network = build_network("unet", 3, 5, {"width": 4, "depth": depth}).eval()
    assert total_stride("unet", {"depth": depth}, network) == 2**depth
    assert network(torch.zeros(2, 3, 32, 48)).shape == (2, 5, 32, 48)
    without = build_network("unet", 3, 5, {"width": 4, "depth": depth, "skips": False}).eval()
    assert without(torch.zeros(1, 3, 32, 32)).shape == (1, 5, 32, 32)


@pytest.mark.parametrize(
    ("architecture", "arguments", "said"),
    [
        ("unet", {"widht": 8}, "'unet' has no argument 'widht': did you mean 'width'"),
        ("fpn", {"encoder_nam": "resnet18"}, "'fpn' has no argument 'encoder_nam': did you mean 'encoder_name'"),
        ("fpn", {"encoder_name": "mobilenetv2"}, "'mobilenetv2' is not known; the nearest are mobilenet_v2, "),
    ],
)
def test_a_misspelt_argument_or_encoder_is_told_the_nearest_ones(
    architecture: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as error:
        build_network(architecture, 2, 2, arguments)
    assert len(str(error.value)) < 400


def test_moving_the_scene_by_the_stride_moves_the_scores() -> None:
    """The law behind aligned windows: the network commutes with shifts by its total stride, away from borders."""
    torch.manual_seed(0)
    network = build_network("unet", 2, 3, {"width": 4, "depth": 2}).eval()
    x = torch.randn(1, 2, 128, 128)
    shifted = torch.roll(x, (4, 4), (2, 3))
    with torch.inference_mode():
        a, b = network(x)[..., 48:64, 48:64], network(shifted)[..., 52:68, 52:68]
        torch.testing.assert_close(a, b)
        off = network(torch.roll(x, (1, 1), (2, 3)))[..., 49:65, 49:65]
    assert (a - off).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", [a for a in architectures() if a not in ("unet", "pointwise")])
def test_every_architecture_of_smp_is_built_by_name(architecture: str) -> None:
    encoder = {"segformer": "mit_b0", "dpt": "tu-vit_tiny_patch16_224"}.get(architecture, "resnet18")
    network = build_network(architecture, 6, 4, {"encoder_name": encoder}).eval()
    stride = total_stride(architecture, {}, network)
    with torch.inference_mode():
        assert network(torch.zeros(1, 6, 2 * stride, stride)).shape == (1, 4, 2 * stride, stride)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"encoder_name": "resnet18", "encoder_weights": "imagenet"}, "encoder_weights='imagenet' cannot be honoured"),
        ({"encoder_name": "tu-hf-hub:someone/something"}, "would be fetched from elsewhere"),
        ({"encoder_name": "resnet18", "aux_params": {"classes": 2}}, "aux_params"),
    ],
)
def test_nothing_is_fetched_and_no_second_output_made(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        build_network("fpn", 3, 2, arguments)


# --- what is refused


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path: Path, pointwise: Model) -> Path:
    return Path(shutil.copytree(pointwise.folder, tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    card = json.loads((folder / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))


def test_pickled_weights_are_refused_and_not_run(tmp_path: Path, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    edit(folder, _new_checksum(folder))
    with pytest.raises(ModelError, match="not a safetensors file"):
        _ = load_model(folder).network
    torch.save({"w": Bomb(tmp_path / "exploded")}, folder / "weights.pt")
    with pytest.raises(ModelError, match="never loaded"):
        load_model(folder / "weights.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("missing", [CARD, WEIGHTS])
def test_an_incomplete_folder_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=f"incomplete: {missing} is missing"):
        load_model(folder)


def test_the_folder_of_a_cross_validation_names_its_models(tmp_path: Path, folder: Path) -> None:
    folder.rename(tmp_path / "fold-1")
    with pytest.raises(ModelError, match=r"model\.safetensors are missing; of a cross-validation name .*fold-1"):
        load_model(tmp_path)


def test_altered_weights_are_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match="altered or cut short"):
        load_model(folder)


def test_a_card_that_describes_another_network_is_not_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    assert "parameters: 9" in landcover(capsys, "models", "show", folder).out
    edit(folder, _channels)
    assert "disagree: the weight" in refused(capsys, tmp_path, "models", "show", folder)


def _channels(card: dict[str, Any]) -> None:
    given = card["properties"]["mlm:input"][0]
    given["bands"].append("swir16")
    given["value_scaling"].append(given["value_scaling"][0])
    given["input"]["shape"][1] += 1


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "more bands than weights": (_channels, "disagree: the weight 'weight' should have shape"),
    "other architecture": (lambda c: c["properties"].update({"mlm:architecture": "unet"}), "disagree"),
    "unknown architecture": (
        lambda c: c["properties"].update({"mlm:architecture": "linknett"}),
        "did you mean 'linknet'",
    ),
    "unknown argument": (
        lambda c: c["properties"].update({"mlm:hyperparameters": {"wings": 2}}),
        "'pointwise' has no argument 'wings': known are: bias, groups",
    ),
    "a file to unpickle": (
        lambda c: c["properties"].update(
            {
                "mlm:architecture": "smp-unet",
                "mlm:hyperparameters": {"encoder_name": "tu-resnet18", "checkpoint_path": "evil.pth"},
            }
        ),
        "has no argument 'checkpoint_path'",
    ),
    "features that are not there": (
        lambda c: c["properties"].update(
            {
                "mlm:architecture": "dpt",
                "mlm:hyperparameters": {
                    "encoder_name": "tu-vit_tiny_patch16_224",
                    "encoder_depth": 1,
                    "encoder_output_indices": [99],
                    "decoder_intermediate_channels": [4],
                },
            }
        ),
        "cannot be built with",
    ),
    "huge width": (
        lambda c: c["properties"].update({"mlm:architecture": "unet", "mlm:hyperparameters": {"width": 2**16}}),
        "disagree",
    ),
    "a width at which sizes overflow": (
        lambda c: c["properties"].update({"mlm:architecture": "unet", "mlm:hyperparameters": {"width": 10**9}}),
        "is given 1,000,000,000, more than networks have",
    ),
    "no scaling": (
        lambda c: c["properties"]["mlm:input"][0].update({"value_scaling": None}),
        "value_scaling|one input",
    ),
    "scaling by code": (
        lambda c: c["properties"]["mlm:input"][0].update(
            {"value_scaling": [{"type": "processing", "expression": "x"}] * 2}
        ),
        "only value_scaling of type 'z-score'",
    ),
    "one scaling for two bands": (
        lambda c: c["properties"]["mlm:input"][0]["value_scaling"].pop(),
        "2 bands but 1 scaling",
    ),
    "stddev of zero": (
        lambda c: c["properties"]["mlm:input"][0]["value_scaling"][0].update({"stddev": 0}),
        "greater than 0",
    ),
    "code before": (
        lambda c: c["properties"]["mlm:input"][0].update(
            {"pre_processing_function": {"format": "python", "expression": "os:system"}}
        ),
        "pre_processing_function .* is not run",
    ),
    "weights elsewhere": (lambda c: c["assets"]["weights"].update({"href": "../../etc/passwd"}), "in the same folder"),
    "no checksum": (lambda c: c["assets"]["weights"].pop("file:checksum"), "sha256"),
    "no classes": (lambda c: c["properties"]["mlm:output"][0].pop("classification:classes"), "lacks"),
    "class 0": (
        lambda c: c["properties"]["mlm:output"][0]["classification:classes"][0].update({"value": 0}),
        "greater than or equal to 1",
    ),
    "class twice": (
        lambda c: c["properties"]["mlm:output"][0]["classification:classes"][0].update({"value": 2}),
        "occurs twice",
    ),
    "infinite mean": (
        lambda c: c["properties"]["mlm:input"][0]["value_scaling"][0].update({"mean": float("inf")}),
        "finite",
    ),
    "arguments of torch": (
        lambda c: c["properties"].update({"mlm:hyperparameters": {"device": "meta"}}),
        "has no argument 'device'",
    ),
    "bands last": (
        lambda c: c["properties"]["mlm:input"][0]["input"].update({"dim_order": ["batch", "height", "width", "bands"]}),
        "the input has the dimensions",
    ),
    "more channels than bands": (
        lambda c: c["properties"]["mlm:input"][0]["input"]["shape"].__setitem__(1, 7),
        "the input has 7 channels, and 2 bands",
    ),
    "fewer scores than classes": (
        lambda c: c["properties"]["mlm:output"][0]["result"]["shape"].__setitem__(1, 1),
        "the output has 1 channels, and 3 classes",
    ),
    "no shape": (
        lambda c: c["properties"]["mlm:input"][0]["input"].update({"shape": []}),
        "is not a model card",
    ),
    "whole numbers": (
        lambda c: c["properties"]["mlm:output"][0]["result"].update({"data_type": "uint8"}),
        "the output is of 'uint8'",
    ),
    "a band that is computed": (
        lambda c: c["properties"]["mlm:input"][0]["bands"].__setitem__(0, {"name": "red", "expression": "A*2"}),
        "by an expression, which is not evaluated",
    ),
    "clipping elsewhere": (
        lambda c: c["properties"].update({"landcover:clip_stddev": 3}),
        "clips at 3 standard deviations",
    ),
    "half a character": (lambda c: c["properties"].update({"description": "\ud800"}), "half a character"),
    "gsd upside down": (
        lambda c: c["properties"].update({"landcover:gsd": [30, 10]}),
        "from the finest to the coarsest",
    ),
    "figures that are none": (
        lambda c: c["properties"].update({"landcover:accuracy": {"here": 5}}),
        "accuracy.here",
    ),
    "nested far too deep": (
        lambda c: c["properties"].update({"x": json.loads("[" * 100 + "]" * 100)}),
        "more than 50 deep",
    ),
    "not an item": (lambda c: c.pop("properties"), "not a STAC Item"),
    "properties of text": (lambda c: c["properties"].update({"mlm:input": "all"}), "is not a model card"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_card_that_lies_is_refused(folder: Path, lie: str) -> None:
    change, says = LIES[lie]
    edit(folder, change)
    with pytest.raises(ModelError, match=says):
        _ = load_model(folder).network


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass").decode("latin1")]
)
def test_a_card_that_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(ModelError):
        load_model(folder)


def test_an_untrained_model_maps_nothing_unless_allowed(tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(20, 20))
    with pytest.raises(ModelError, match="--allow-untrained"):
        predict(scene, tmp_path / "map.tif", model=pointwise)
    assert not (tmp_path / "map.tif").exists()


def test_a_band_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no name; write for example --bands red,nir"):
        init_model(tmp_path / "m", architecture="pointwise", bands=("red", ""), classes=("a", "b"))


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'landcover-6band'"):
        load_model("landcover-6bnd")


# ------------------------------------------------------------------------------------ scenes coarser than it sees


def test_a_scene_coarser_than_the_model_sees_is_enlarged(unet: Model) -> None:
    """A model of 10 m maps a scene of 30 m as it maps the scene enlarged three times, but for the mean of scores."""
    coarse = replace(unet, spec=unet.spec.model_copy(update={"sees": 10.0})).for_gsd(30.0)
    assert (coarse.factor, coarse.stride) == (3, 4)
    x = torch.rand(1, 2, 16, 20)
    with torch.inference_mode():
        whole = unet.network(torch.nn.functional.interpolate(x, scale_factor=3, mode="bicubic", align_corners=False))
        expected = torch.nn.functional.avg_pool2d(whole, 3)
        torch.testing.assert_close(coarse.network(x), expected)


@pytest.mark.parametrize(
    ("sees", "gsd", "factor"),
    [(10, 10, 1), (10, 28.5, 3), (10, 20, 2), (10, 14, 1), (10, 3, 1), (None, 30, 1), (10, None, 1)],
)
def test_by_how_much_scenes_are_enlarged(sees: float | None, gsd: float | None, factor: int) -> None:
    model = load_model()
    assert replace(model, spec=model.spec.model_copy(update={"sees": sees})).for_gsd(gsd).factor == factor


def test_scenes_are_enlarged_as_far_as_they_show_something() -> None:
    model = load_model()
    model = replace(model, spec=model.spec.model_copy(update={"sees": 1.0}))
    assert model.for_gsd(32.4).factor == 32
    with pytest.raises(ModelError, match="enlarged 33 times"):
        model.for_gsd(33)


@pytest.mark.parametrize(("factor", "stride"), [(1, 4), (2, 2), (3, 4), (4, 1), (6, 2), (8, 1)])
def test_windows_of_an_enlarged_scene_start_where_its_network_does(unet: Model, factor: int, stride: int) -> None:
    assert replace(unet, factor=factor).stride == stride


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_the_map_of_an_enlarged_scene_has_no_seams(engine: str, tmp_path: Path) -> None:
    """In windows and in one: the same labels but for a few where windows meet, on the grid of the scene."""
    init_model(
        tmp_path / "m",
        architecture="unet",
        bands=("red", "nir"),
        classes=("a", "b"),
        hyperparameters={"depth": 2, "width": 4},
        seed=2,
    )
    edit(tmp_path / "m", lambda c: c["properties"].update({"landcover:sees": 5.0}))
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(90, 110))
    how = {"model": tmp_path / "m", "allow_untrained": True, "engine": engine, "device": "cpu", "overwrite": True}
    whole = read_map(predict(scene, tmp_path / "map.tif", **how))
    cut = read_map(predict(scene, tmp_path / "map.tif", tile_size=128, overlap=64, **how))
    assert whole.shape == (90, 110)
    assert (whole != cut).mean() < 0.01
    with_explain = make_plan(Options(scene, tmp_path / "map.tif", **how)).describe()
    assert with_explain["enlarged"] == "2 ×, to 5 m, as the network sees"


@pytest.mark.parametrize("out", ["s3://bucket/model", "https://example.org/model", "/vsis3/bucket/model"])
def test_an_address_is_no_place_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=f"{out} is an address"):
        check_folder(Path(out), overwrite=False)
    assert not list(tmp_path.iterdir())
