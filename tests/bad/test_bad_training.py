"""Recipes, samples and weights that cannot be used: each is one sentence, exit code 3, and nothing left behind."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import torch
from shapely.geometry import box

from landcover.models import Model, init_model
from landcover.training.learning import Task
from tests.commands import landcover, refused
from tests.lessons import change, write_labels, write_lesson
from tests.scenes import UTM, write_scene


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_lesson(tmp_path, side=64, steps=4)


@pytest.fixture
def train(tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run train, and give the sentence with which it refuses."""

    def run(*options: str | Path, config: Path = recipe, out: Path = tmp_path / "model") -> str:
        return refused(capsys, tmp_path, "train", config, "--out", out, "--device", "cpu", *options)

    return run


Train = Callable[..., str]


def test_a_recipe_that_is_not_there(tmp_path: Path, train: Train) -> None:
    assert "cannot be read" in train(config=tmp_path / "nowhere.toml")


def test_a_recipe_that_is_not_toml(recipe: Path, train: Train) -> None:
    recipe.write_text("steps: 5")
    assert "is not valid TOML" in train()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("steps =", "step =", "unknown key 'loop.step'; did you mean 'steps'?"),
        ("[augmentation]", "[augmentations]", "did you mean 'augmentation'?"),
        ('kind = "scene"\nscene', 'kind = "scene"\nsence', "did you mean 'scene'?"),
        ("rate = 1e-2", "rate = -1", "loop.rate: -1 should be greater than 0"),
        (
            'name = "lesson"',
            'name = "my lesson"',
            "name: 'my lesson' cannot be the name of a model; write",
        ),
        ('name = "lesson"', "name = 1", "name: 1 is no text; write it in quotes"),
        ('name = "lesson"', "", "name: it is missing; add it"),
        ("size = 32", "size = 33", "not a multiple of the network's stride, 4"),
        ('architecture = "unet"', 'architecture = "unett"', "did you mean 'unet"),
        ('legend = "two.toml"', 'legend = "three.toml"', "three.toml' is neither a known name nor a TOML file"),
        ("[[sources]]", "[sources]", "sources: there may be several; write [[sources]]"),
        ("[loop]", "[tests]\ntitle = 'other'\n[loop]", "write [[tests]]"),
        ('bands = ["red", "nir"]', "", "names no bands"),
        ('bands = ["red", "nir"]', 'bands = ["red", "swir16"]', "'swir16'"),
        ('labels = "labels.tif"', "", "scene.tif has no labels; name them, or a [teacher]"),
        ('labels = "labels.tif"', 'labels = "nowhere.tif"', "nowhere.tif cannot be opened"),
        ('scene = "scene.tif"', 'scene = "nowhere.tif"', "does not exist"),
        ('labels = "labels.tif"', 'labels = "labels.tif"\nband = 2', "has no band 2"),
        ('labels = "labels.tif"', 'labels = "labels.tif"\nclasses = { 3 = "brihgt" }', "did you mean 'bright'?"),
        ('labels = "labels.tif"', 'labels = "labels.tif"\nscale = 1.0', "its scale or offset is wrong"),
        ('labels = "labels.tif"', 'labels = "labels.tif"\nscale = 1e-8', "its scale or offset is wrong"),
        ('bands = ["red", "nir"]', 'bands = ["red", "red"]', "a band occurs twice"),
        ('bands = ["red", "nir"]', 'bands = ["red", ""]', "bands.1: String should have at least 1 character"),
        ("chip = 32", "chip = 32\ngsd = [30, 10]", "not a range from the finest to the coarsest"),
        ('architecture = "unet"', 'architecture = "unet"\nencoder_weights = "w.pth"', "has no encoder"),
        ('architecture = "unet"', 'architecture = "unet"\nfreeze_encoder = true', "no encoder to freeze"),
        ('kind = "scene"', 'kind = "scen"', "the kind 'scen' is none of 'pack', 'scene', 'chips'"),
        ('kind = "scene"\n', "", "sources.0: its kind is missing; add it"),
        ("chip = 32", "chip = 32\ntemperature = 1e-300", "temperature: 1e-300 should be greater than or equal to 0.01"),
        ("chip = 32", "chip = 32\nsees = 0.001", "a scene of 10 m would have to be enlarged 10004 times"),
        ('bands = ["red", "nir"]', 'bands = "red"', "bands: 'red' is no list; write it in square brackets"),
        (
            'labels = "labels.tif"',
            'labels = "labels.tif"\nbands = ["red"]',
            "bands: it is no table; write { key = value }",
        ),
        ("[loop]", "[[loop]]", "loop: it is no table; write { key = value }, or its name once in single brackets"),
        (
            'architecture = "unet"',
            'architecture = "smp-unet"\nencoder_name = "resnet18"',
            'encoder_name is an argument of the architecture; write hyperparameters = { encoder_name = "resnet18" }',
        ),
        (
            'labels = "labels.tif"',
            'labels = "labels.tif"\nclasses = { 3 = "bright", 7 = "Ignore" }',
            "labels.tif name 'Ignore', which is no class of the legend 'two': did you mean 'ignore'?",
        ),
        ("haze = 0.02", "lakes = 0.5", "augmentation.lakes varies the class 'water', and the legend has bright, dark"),
        ("rate = 1e-2", "rate = 1e300", "loop.rate: 1e+300 should be less than"),
        ("batch = 4", "batch = 1_000_000", "loop.batch: 1000000 should be less than or equal to 100000"),
        ("depth = 2 }", "depth = 5 }", "1 chip of 32 × 32 pixels cannot be normalised by this network"),
        ("two.toml", "l" * 300, "lll' is neither a known name nor a TOML file"),
        ("[loop]", f'[teacher]\nmodels = ["{"t" * 300}"]\n\n[loop]', "ttt' cannot be read: File name too long"),
    ],
)
def test_what_a_recipe_cannot_say(recipe: Path, train: Train, before: str, after: str, said: str) -> None:
    change(recipe, before, after)
    if "cannot be normalised" in said:
        change(recipe, "batch = 4", "batch = 1")
    assert said in train()


def test_a_recipe_that_was_moved_says_where_it_looks(tmp_path: Path, recipe: Path, train: Train) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = recipe.replace(tmp_path / "elsewhere" / recipe.name)
    assert f"legend '{tmp_path}/elsewhere/two.toml' is neither a known name nor a TOML file" in train(config=moved)


def test_more_memory_than_there_is(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "take", Mock(side_effect=MemoryError))
    assert "cpu has not the memory to train with this recipe; lower batch" in train()


def test_labels_outside_the_legend_are_listed_with_their_counts(tmp_path: Path, train: Train) -> None:
    labels = np.full((64, 64), 3, np.uint8)
    labels[:10, :10], labels[20, 20] = 9, 8
    write_labels(tmp_path / "labels.tif", labels)
    assert "does not know: '9' (100 ×), '8' (1 ×); it knows 3 bright, 7 dark. Say" in train()


def test_polygons_of_an_unknown_class(tmp_path: Path, recipe: Path, train: Train) -> None:
    left, top = UTM @ (0, 0)
    shape = [box(left, top - 80, left + 80, top)]
    geopandas.GeoDataFrame({"class": ["Bright"]}, geometry=shape, crs="EPSG:32633").to_file(tmp_path / "p.gpkg")
    change(recipe, "labels.tif", "p.gpkg")
    assert "does not know: 'Bright'" in (said := train())
    assert '{ "Bright" = "bright" }' in said  # and not "ignore", which would throw them away


@pytest.mark.parametrize("column", ["class", "c" * 300])
def test_polygons_without_the_column(tmp_path: Path, recipe: Path, train: Train, column: str) -> None:
    left, top = UTM @ (0, 0)
    shape = [box(left, top - 80, left + 80, top)]
    geopandas.GeoDataFrame({"kind": ["dark"]}, geometry=shape, crs="EPSG:32633").to_file(tmp_path / "p.gpkg")
    change(recipe, 'labels = "labels.tif"', f'labels = "p.gpkg"\ncolumn = "{column}"')
    assert f"has no column '{column}' with classes; it has kind" in train()


def test_a_table_without_shapes(tmp_path: Path, recipe: Path, train: Train) -> None:
    pyogrio.write_dataframe(pandas.DataFrame({"class": ["dark"]}), tmp_path / "p.gpkg")
    change(recipe, "labels.tif", "p.gpkg")
    assert "is a table without shapes" in train()


def test_polygons_that_lie_elsewhere(tmp_path: Path, recipe: Path, train: Train) -> None:
    """In the CRS of the scene, and in another one, of which what lies far away is cut off."""
    change(recipe, "labels.tif", "p.gpkg")
    far = geopandas.GeoDataFrame({"class": ["dark"]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:32633")
    for frame in (far, far.to_crs("EPSG:4326")):
        frame.to_file(tmp_path / "p.gpkg")
        assert "p.gpkg and" in (said := train())
        assert "do not overlap" in said


def test_a_layer_of_a_file_that_has_none(tmp_path: Path, recipe: Path, train: Train) -> None:
    shape = geopandas.GeoDataFrame({"class": ["dark"]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:32633")
    shape.to_parquet(tmp_path / "p.parquet")
    change(recipe, 'labels = "labels.tif"', 'labels = "p.parquet"\nlayer = "l"')
    assert "has no layers; leave layer = 'l' out" in train()


def test_labels_that_cannot_be_brought_to_the_grid(tmp_path: Path, train: Train) -> None:
    """It is not said that something could not be written."""
    write_labels(tmp_path / "labels.tif", np.full((64, 64), 3, np.uint8), crs='LOCAL_CS["x",UNIT["metre",1]]')
    assert "labels.tif cannot be brought to the grid of" in train()


def test_labels_that_lie_elsewhere(tmp_path: Path, train: Train) -> None:
    write_labels(tmp_path / "labels.tif", np.full((64, 64), 3, np.uint8), UTM @ UTM.translation(1000, 0))
    assert "do not overlap" in train()


def test_a_class_without_samples(tmp_path: Path, train: Train) -> None:
    write_labels(tmp_path / "labels.tif", np.full((64, 64), 3, np.uint8))
    assert "no sample of the class 'dark' is left to learn from" in train()


def test_chips_of_nothing_but_nodata(tmp_path: Path, train: Train) -> None:
    write_scene(tmp_path / "scene.tif", np.zeros((2, 64, 64), np.uint16), nodata=0)
    assert "labels no valid pixel" in train()


def test_a_scene_of_nothing_but_nan(tmp_path: Path, train: Train) -> None:
    write_scene(tmp_path / "scene.tif", np.full((2, 64, 64), np.nan, np.float32))
    assert "labels no valid pixel" in train()


@pytest.mark.parametrize("fill", [-9999, 65535])
def test_missing_pixels_that_are_not_declared(tmp_path: Path, recipe: Path, train: Train, fill: int) -> None:
    """They would count in the mean and the spread by which the network sees all others."""
    pixels = np.full((2, 64, 64), 1500, np.int32)
    pixels[:, :10, :10] = fill
    write_scene(tmp_path / "scene.tif", pixels)
    assert f"whose reflectance is {fill / 10_000:.4g}, which cannot be" in (said := train())
    assert "missing pixels are not declared as nodata" in said


def test_one_chip_of_many_that_is_scaled_otherwise(tmp_path: Path, recipe: Path, train: Train) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k in range(5):
        pixels = np.full((2, 32, 32), 0.2 if k else 2000, np.float32)
        write_scene(tmp_path / "images" / f"{k}.tif", pixels, scaled=False)
        write_labels(tmp_path / "labels" / f"{k}.tif", np.full((32, 32), 3, np.uint8))
    change(recipe, SCENE, 'kind = "chips"\nimages = "images"\nlabels = "labels"\nscale = 1\n')
    assert "images/0.tif has pixels whose reflectance is 2000, which cannot be" in train()


def test_more_folds_than_places(recipe: Path, train: Train) -> None:
    assert "fewer places than 9 folds" in train("--folds", "9")
    assert "2 folds or more" in train("--folds", "1")


def test_a_model_that_is_there_already(tmp_path: Path, train: Train) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    assert "--overwrite" in train()


def test_a_base_that_is_no_model(train: Train) -> None:
    assert "neither a folder nor the name of an embedded model" in train("--init", "landcover-7band")


def test_a_teacher_of_other_classes(recipe: Path, pointwise: Model, train: Train) -> None:
    recipe.write_text(recipe.read_text() + f'[teacher]\nmodels = ["{pointwise.folder}"]\n')
    assert "scores a, b, c, and the recipe's legend has bright, dark" in train()


def test_a_teacher_of_a_larger_stride(tmp_path: Path, recipe: Path, train: Train) -> None:
    classes, arguments = ("bright", "dark"), {"width": 1, "depth": 6}
    init_model(tmp_path / "t", architecture="unet", bands=("red", "nir"), classes=classes, hyperparameters=arguments)
    recipe.write_text(recipe.read_text() + '[teacher]\nmodels = ["t"]\n')
    assert "augmentation.size 32 is not a multiple of the stride of the teacher" in train()


class Malice:
    def __reduce__(self) -> tuple:
        return print, ("code was run",)


SCENE = 'kind = "scene"\nscene = "scene.tif"\nlabels = "labels.tif"\n'
PACK = 'kind = "pack"\npath = "pack.npz"\nscale = 1e-4\nbands = ["red", "nir"]\n'
ENCODER = 'architecture = "smp-unet"\nencoder_weights = "w.pth"'
ARGUMENTS = "hyperparameters = { encoder_name = 'resnet18' }"


def test_weights_that_carry_code(
    tmp_path: Path, recipe: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    change(change(recipe, 'architecture = "unet"', ENCODER), "hyperparameters = { width = 4, depth = 2 }", ARGUMENTS)
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"weights": Malice()}))
    assert "cannot be read as plain tensors" in train()
    torch.save({"weights": Malice()}, tmp_path / "w.pth")
    assert "cannot be read as plain tensors" in train()
    assert "code was run" not in capsys.readouterr().out


def test_nobody_is_advised_to_load_weights_that_may_carry_code(tmp_path: Path, recipe: Path, train: Train) -> None:
    """As PyTorch advises, which knows no other way."""
    change(change(recipe, 'architecture = "unet"', ENCODER), "hyperparameters = { width = 4, depth = 2 }", ARGUMENTS)
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "w.pth")
    whole = train()
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: len(content) // 2])
    for said in (whole, train()):
        assert "save the network's state_dict() alone" in said
        assert "torch.load" not in said


def test_weights_of_another_encoder(tmp_path: Path, recipe: Path, train: Train) -> None:
    change(change(recipe, 'architecture = "unet"', ENCODER), "hyperparameters = { width = 4, depth = 2 }", ARGUMENTS)
    torch.save({"conv1.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "w.pth")
    assert "are not those of this encoder" in train()
    torch.save({0: torch.zeros(1)}, tmp_path / "w.pth")
    assert "holds no state dict" in train()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((1, 2, 8, 8))}, "has no array 'valid'"),
        ({"images": np.zeros((1, 3, 8, 8))}, "the recipe names 2 bands"),
        ({"labels": np.zeros((1, 8, 9), np.uint8)}, "labels has the shape (1, 8, 9)"),
        ({"group": np.zeros(3)}, "the groups have the shape (3,)"),
        ({"labels": np.full((1, 8, 8), "dark")}, "labels are of type <U4; store numbers"),
        ({"group": np.array([Malice()])}, "cannot be read as a pack"),
    ],
)
def test_a_pack_that_does_not_fit(tmp_path: Path, recipe: Path, train: Train, arrays: dict, said: str) -> None:
    fine = {
        "images": np.ones((1, 2, 8, 8)),
        "valid": np.ones((1, 8, 8), bool),
        "labels": np.ones((1, 8, 8), np.uint8),
        "group": np.zeros(1),
    }
    if said.startswith("has no array"):
        fine = {}
    np.savez(tmp_path / "pack.npz", **{**fine, **arrays})
    change(recipe, SCENE, PACK)
    assert said in train()


HUGE = (
    b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,)}".ljust(117)
    + b"\n"
)
"""An array of 36 TB, as its header says."""


def test_a_pack_that_is_none_or_damaged(tmp_path: Path, recipe: Path, train: Train) -> None:
    change(recipe, SCENE, PACK)
    with (tmp_path / "pack.npz").open("wb") as f:
        np.save(f, np.zeros(3))
    assert "cannot be read as a pack of chips (.npz): File is not a zip file" in train()
    for content, said in ((b"text", "images is no array of NumPy"), (HUGE, "Unable to allocate")):
        with zipfile.ZipFile(tmp_path / "pack.npz", "w") as z:
            for name in ("images", "valid", "labels", "group"):
                z.writestr(f"{name}.npy", content)
        assert said in train()
    np.savez_compressed(tmp_path / "pack.npz", images=np.random.default_rng(0).random((1, 2, 64, 64)))
    content = bytearray((tmp_path / "pack.npz").read_bytes())
    content[100:5000] = bytes(4900)
    (tmp_path / "pack.npz").write_bytes(content)
    change(
        recipe,
        'path = "pack.npz"',
        "\n".join(f'{k} = "images"' for k in ("valid", "labels", "group")) + '\npath = "pack.npz"',
    )
    assert "cannot be read as a pack of chips" in train()


def test_chips_without_labels(tmp_path: Path, recipe: Path, train: Train) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/gone.tif").symlink_to(tmp_path / "nowhere.tif")
    change(recipe, SCENE, 'kind = "chips"\nimages = "imgs"\nlabels = "lables"\n')
    assert "imgs is no folder of images; correct images in the recipe" in train()
    change(recipe, "imgs", "images")
    assert "lables does not exist; correct labels in the recipe" in train()
    (tmp_path / "lables").mkdir()
    assert "gone.tif has no label rasters gone.*" in train()
    change(recipe, "lables", "l" * 300)
    assert "lll cannot be read: File name too long" in train()


def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    done = landcover(capsys, "train", "--help")
    assert done.code == 0
    assert "landcover train my-area.toml --init landcover-6band --out my-model" in " ".join(done.out.split())


def test_a_folder_that_is_no_model_is_never_replaced(tmp_path: Path, train: Train) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious.gpkg").touch()
    assert "holds files that are no model" in train("--overwrite")


@pytest.mark.parametrize(
    ("out", "said"), [(".", "cannot be replaced as a whole"), ("..", "as a whole"), ("link", "leads nowhere")]
)
def test_a_place_that_no_model_can_take(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    """It is found before the training, not after it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path / "empty")
    assert said in train("--overwrite", out=Path(out))


def test_curves_that_cannot_be_written(tmp_path: Path, recipe: Path, train: Train) -> None:
    assert "cannot be written: File exists" in train("--tensorboard", recipe)


def test_the_recipe_does_not_lie_in_the_folder_that_is_replaced(tmp_path: Path, train: Train) -> None:
    """Nor its scene or labels: an earlier model lies there, so that it could be replaced."""
    (tmp_path / "model.json").touch()
    assert "lies in" in train("--overwrite", out=tmp_path)


def test_options_that_cannot_be(train: Train) -> None:
    assert "--steps: 0 should be greater than or equal to 1" in train("--steps", "0")
    assert "--seed: -1 should be greater than or equal to 0" in train("--seed", "-1")


TEST = '[[tests]]\ntitle = "t"\nscene = "scene.tif"\nlabels = "labels.tif"\n'


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (TEST + 'only = "brihgt"', "the test 't' scores 'brihgt': did you mean 'bright'?"),
        (TEST.replace("scene.tif", "nowhere.tif"), "nowhere.tif does not exist"),
        (TEST.replace("labels.tif", "nowhere.tif"), "nowhere.tif cannot be opened"),
        (TEST + TEST, "the title 't' occurs twice"),
        (TEST.replace('"t"', '"places held out"'), "the title 'places held out' occurs twice"),
    ],
)
def test_a_test_that_cannot_be_scored(recipe: Path, train: Train, test: str, said: str) -> None:
    """It is found before the training, not after it."""
    recipe.write_text(recipe.read_text() + test)
    assert said in train()


def test_labels_that_are_cut_short(tmp_path: Path, train: Train) -> None:
    content = (tmp_path / "labels.tif").read_bytes()
    (tmp_path / "labels.tif").write_bytes(content[: len(content) // 2])
    assert "the labels" in (said := train())
    assert "may be cut short" in said


def test_a_network_cannot_be_chosen_where_a_model_is_refined(pointwise: Model, train: Train) -> None:
    assert "[network] architecture cannot be chosen where" in train("--init", pointwise.folder)
    assert "mmm' cannot be read: File name too long" in train("--init", "m" * 300)
