"""Graphs whose layers are computed in bands give the same values, and hold less at once."""

import sys
import warnings

import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset13 as op
from torch import nn

from landcover.engines.banding import in_bands, live_bytes
from landcover.network import build_network

ROWS, COLS = 44, 36


def graph_of(network: nn.Module, rows: int = ROWS, cols: int = COLS, bands: int = 3) -> ov.Model:
    network = network.eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the tracing that OpenVINO's converter uses
        graph = ov.convert_model(network, example_input=torch.zeros(1, bands, rows, cols))
    graph.reshape([1, bands, rows, cols])
    return graph


def values(graph: ov.Model, seed: int = 0) -> np.ndarray:
    shape = list(graph.input(0).get_shape())
    compiled = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([np.random.default_rng(seed).standard_normal(shape, np.float32)])[0]


def layers(graph: ov.Model) -> list[str]:
    return [node.get_type_name() for node in graph.get_ordered_ops()]


@st.composite
def convolutions(draw: st.DrawFn) -> ov.Model:
    """Convolutions in a row, of any kernel, stride, padding and dilation, also transposed ones and by channel."""
    given = op.parameter([1, 4, ROWS, COLS], ov.Type.f32)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    layer = given
    for channels in [*draw(st.lists(st.sampled_from([4, 8, 16]), min_size=2, max_size=4)), 2]:
        before, kernel = layer.output(0).get_shape()[1], draw(st.integers(1, 5))
        pads = (
            [draw(st.integers(0, kernel // 2)) for _ in range(2)],
            [draw(st.integers(0, kernel // 2)) for _ in range(2)],
        )
        stride, dilation = [[draw(st.integers(1, most)) for _ in range(2)] for most in (min(2, kernel), 2)]
        groups = draw(st.sampled_from([1, before])) if channels % before == 0 else 1
        shape = [groups, channels // groups, before // groups, kernel, kernel]
        transposed = draw(st.booleans())
        if transposed:
            shape[1], shape[2] = shape[2], shape[1]
        weight = random.standard_normal(shape[1:] if groups == 1 else shape, np.float32) / (kernel * before**0.5)
        if transposed:
            make = op.convolution_backprop_data if groups == 1 else op.group_convolution_backprop_data
            more = [draw(st.integers(0, step - 1)) for step in stride]
            layer = make(
                layer, weight, stride, pads_begin=pads[0], pads_end=pads[1], dilations=dilation, output_padding=more
            )
        else:
            make = op.convolution if groups == 1 else op.group_convolution
            layer = make(layer, weight, stride, *pads, dilation)
        rows = draw(st.sampled_from([1, 1, 1, layer.output(0).get_shape()[2]]))
        bias = random.standard_normal((1, channels, rows, 1), np.float32)
        layer = draw(st.sampled_from([op.relu, op.sigmoid, op.swish, op.negative]))(op.add(layer, bias))
    return ov.Model([layer], [given])


@settings(deadline=None, max_examples=40)
@given(convolutions(), st.integers(100, 4000))
def test_bands_give_the_values_of_the_whole(graph: ov.Model, band_values: int) -> None:
    """Whatever the kernels reach over, at the edges of the window and where bands meet."""
    banded = in_bands(graph.clone(), band_values)
    np.testing.assert_allclose(values(banded), values(graph), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "arguments", "share"),
    [
        ("smp-unet", {"encoder_name": "mobilenet_v2", "decoder_channels": [32, 16, 16, 8, 8]}, 0.7),
        ("smp-unet", {"encoder_name": "resnet18", "decoder_attention_type": "scse"}, 1),
        ("fpn", {"encoder_name": "efficientnet-b0"}, 1),
        ("deeplabv3plus", {"encoder_name": "resnet18"}, 1),
    ],
)
def test_networks_in_bands_hold_less_and_give_the_same(architecture: str, arguments: dict, share: float) -> None:
    torch.manual_seed(0)
    graph = graph_of(build_network(architecture, 3, 4, arguments), 128, 160)
    banded = in_bands(graph.clone(), 2**15)
    assert layers(banded).count("Concat") > layers(graph).count("Concat")
    assert live_bytes(banded, 4) <= share * live_bytes(graph, 4)
    np.testing.assert_allclose(values(banded), values(graph), atol=1e-4)


@pytest.mark.parametrize(
    "odd", [nn.Conv2d(8, 8, 1, padding=1), nn.Conv2d(8, 8, 2, padding=2), nn.ConvTranspose2d(8, 8, 1, stride=2)]
)
def test_kernels_that_see_less_than_lies_between_them_end_a_chain(odd: nn.Module) -> None:
    """Some rows of such a layer see nothing but padding, or nothing at all."""
    graph = graph_of(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), odd, nn.Conv2d(8, 2, 3, padding=1)))
    np.testing.assert_allclose(values(in_bands(graph.clone(), 100)), values(graph), rtol=1e-4, atol=1e-4)


def test_layers_that_fit_are_left_whole() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    graph = graph_of(network)
    assert layers(in_bands(graph.clone(), 8 * ROWS * COLS)) == layers(graph)
    assert layers(in_bands(graph.clone(), 8 * ROWS * COLS - 1)).count("Convolution") == 4


@pytest.mark.parametrize("windows", [1, 2])
def test_layers_of_fewer_than_four_values_a_pixel_are_held_whole(windows: int) -> None:
    for channels in (3, 4):
        network = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 2, 3, padding=1))
        graph = graph_of(network)
        graph.reshape([windows, 3, ROWS, COLS])
        banded = in_bands(graph, 100)
        assert ("Concat" in layers(banded)) == (channels == 4)


def test_what_is_used_twice_is_held_whole() -> None:
    """As a skip connection is: to compute it once for each of its users would cost more."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return y + self.second(y)

    graph = graph_of(Skip())
    assert layers(in_bands(graph.clone(), 100)) == layers(graph)


def test_networks_may_be_deeper_than_python_calls_itself() -> None:
    given = op.parameter([1, 4, ROWS, COLS], ov.Type.f32)
    layer = op.convolution(given, np.ones((8, 4, 3, 3), np.float32), [1, 1], [1, 1], [1, 1], [1, 1])
    for _ in range(sys.getrecursionlimit()):
        layer = op.relu(layer)
    end = op.convolution(layer, np.ones((2, 8, 3, 3), np.float32), [1, 1], [1, 1], [1, 1], [1, 1])
    assert layers(in_bands(ov.Model([end], [given]), 4 * ROWS * COLS)).count("Convolution") == 4


def test_what_a_graph_holds_at_once() -> None:
    """Of two convolutions the second one's result beside the first one's; what goes by pixel takes no more."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU6(), nn.Conv2d(4, 2, 1))
    assert live_bytes(graph_of(network), 4) == 4 * (8 + 4) * ROWS * COLS
    assert live_bytes(graph_of(network), 2) == 2 * (8 + 4) * ROWS * COLS


def test_layers_of_one_name_are_held_apart() -> None:
    """As the converter may call them where a module is used twice."""
    graph = graph_of(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)))
    for node in graph.get_ordered_ops():
        node.set_friendly_name("layer")
    assert live_bytes(graph, 4) == 4 * (8 + 4) * ROWS * COLS


def test_what_is_multiplied_lies_in_place_of_the_larger_factor() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.last(self.gate(y.mean((2, 3), keepdim=True)).sigmoid() * y)

    assert live_bytes(graph_of(Gate()), 4) == 4 * (8 + 4) * ROWS * COLS
