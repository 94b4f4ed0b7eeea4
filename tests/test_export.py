"""Exported models give the scores of the model they were made from, in other programs' formats."""

import json
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch

from landcover.errors import ModelError
from landcover.export import export_model
from landcover.models import init_model, load_model
from tests.commands import landcover, refused

SAMPLE = Path(__file__).parent.parent / "sample_tiles" / "s2_eastern_shore.tif"
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}


@pytest.mark.parametrize("format_", SUFFIX)
def test_the_default_model_on_a_real_scene(format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"model{SUFFIX[format_]}"
    done = landcover(capsys, "models", "export", "landcover-6band", "--format", format_, "-o", out, "--scene", SAMPLE)
    assert done.code == 0, done.err
    expected = {out.name, "model.bin"} if format_ == "openvino" else {out.name}
    assert {p.name for p in tmp_path.iterdir()} == expected


@pytest.mark.parametrize("format_", SUFFIX)
@pytest.mark.parametrize("architecture", ["pointwise", "unet"])
def test_what_is_written_is_the_model(architecture: str, format_: str, tmp_path: Path) -> None:
    """Read by the format's own library: the same scores, and what a program must know."""
    model = init_model(tmp_path / "m", architecture=architecture, bands=("red", "nir"), classes=("a", "b"), seed=3)
    out = tmp_path / f"model{SUFFIX[format_]}"
    export_model(model, out, format_)
    side = 5 * model.stride
    chip = np.random.default_rng(0).random((1, 2, side, side), np.float32)
    chip[:, 1, 2, 3] = np.nan
    stats = model.spec.stats[0]
    x = torch.from_numpy(chip).sub(stats.mean).div(stats.stddev).clip(-6, 6)
    x[:, :, 2, 3] = 0
    with torch.inference_mode():
        expected = model.network(x).softmax(dim=1).numpy()
    if format_ == "pt2":
        extra = {"landcover.json": ""}
        scores = torch.export.load(out, extra_files=extra).module()(torch.from_numpy(chip)).numpy()
        told = json.loads(extra["landcover.json"])
    else:
        graph = openvino.Core().read_model(out)
        scores = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(chip)[0]
        if format_ == "onnx":
            told = {p.key: p.value for p in onnx.load(out).metadata_props}
        else:
            told = {"bands": graph.get_rt_info(["landcover", "bands"]).astype(str)}
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert json.loads(told["bands"]) == ["red", "nir"]


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from landcover import export

    monkeypatch.setitem(export._READERS, "pt2", lambda _path: lambda chip: np.zeros((len(chip), 4, *chip.shape[2:])))
    with pytest.raises(ModelError, match="are off by up to"):
        export_model(load_model(), tmp_path / "m.pt2", "pt2")
    assert not any(tmp_path.iterdir())


def test_a_graph_that_refuses_chips_which_its_network_scores_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torch.export's of networks that pool to a few numbers do, whose sizes it takes for fixed."""
    from landcover import export

    def refuse(_chip: np.ndarray) -> np.ndarray:
        raise AssertionError("Guard failed: 1 + width // 16 != 1")

    monkeypatch.setitem(export._READERS, "pt2", lambda _path: refuse)
    arguments = ("models", "export", "landcover-6band", "--format", "pt2", "-o", tmp_path / "m.pt2")
    assert "cannot be exported to pt2: Guard failed" in refused(capsys, tmp_path, *arguments)


def test_what_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def export(*options: str | Path) -> str:
        return refused(capsys, tmp_path, "models", "export", "landcover-6band", *options)

    assert "--format 'onx' is not known: did you mean 'onnx'?" in export("--format", "onx", "-o", tmp_path / "m.onnx")
    assert "should end in .xml" in export("--format", "openvino", "-o", tmp_path / "m.bin")
    (tmp_path / "m.onnx").touch()
    assert "--overwrite" in export("-o", tmp_path / "m.onnx")
