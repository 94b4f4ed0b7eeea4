"""Graphs that hold less memory: large layers are computed in bands, some rows at a time, and how much a graph holds.

The layers at a network's finest resolutions hold nearly all of its memory. Where one of them feeds only the next, a
band of the last one can be computed from a band of what the first one is given, with the rows around it that kernels
look at; nothing between them is ever held whole. The bands' heights follow from the shapes alone.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

BAND_VALUES = 3 << 20
"""Of the largest layer of a band: few enough for a core's caches, and so many that graphs are compiled in a moment."""

_LARGE = 4
"""Values for each pixel of the window, from which on a layer is not held whole where that can be helped."""

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_TRANSPOSED = ("ConvolutionBackpropData", "GroupConvolutionBackpropData")
_BY_PIXEL = ("Add", "Clamp", "Convert", "HSwish", "Multiply", "Relu", "Sigmoid", "Softmax", "Subtract", "Swish")
_ROWS = 2
"""The axis of (n, channels, rows, cols)."""


def in_bands(graph: Any, band_values: int = BAND_VALUES) -> Any:
    """The same graph, of static shapes, with its large layers in bands; it is changed in place.

    Args:
        graph: an `openvino.Model` whose first input is (n, bands, rows, cols).
        band_values: that the largest layer of a band may hold.
    """
    n, _, height, width = graph.input(0).get_shape()
    for chain in list(_chains(graph, _LARGE * n * height * width)):
        end = chain[-1].output(0)
        rows = end.get_shape()[_ROWS]
        most = max(math.prod(node.output(0).get_shape()) for node in chain)
        count = min(math.ceil(most / band_values), rows)
        if count < 2:
            continue
        users = end.get_target_inputs()
        edges = [i * rows // count for i in range(count + 1)]
        whole = _create("Concat", [_band(chain, *band) for band in pairwise(edges)], {"axis": _ROWS})
        for user in users:
            user.replace_source_output(whole)
    return graph


def live_bytes(graph: Any, itemsize: int) -> int:
    """Bytes that the layers of a graph of static shapes hold at once, in its order, with values of so many bytes.

    What goes by pixel is taken to be done in place.
    """
    nodes = [
        node for node in graph.get_ordered_ops() if node.get_type_name() not in ("Constant", "Parameter", "Result")
    ]
    place: dict[str, str] = {}  # of each layer, the one in whose memory it lies
    last: dict[str, int] = {}  # of each place, the last step that looks at it
    for step, node in enumerate(nodes):
        name, shape = node.get_name(), node.output(0).get_shape()
        given = [(v, place[k]) for v in node.input_values() if (k := v.get_node().get_name()) in place]
        alike = [at for v, at in given if node.get_type_name() in _BY_PIXEL and v.get_shape() == shape]
        place[name] = alike[0] if alike else name
        last |= dict.fromkeys([place[name], *(at for _, at in given)], step)
    now = most = 0
    held: dict[str, int] = {}
    for step, node in enumerate(nodes):
        name = node.get_name()
        if place[name] == name:
            held[name] = itemsize * sum(math.prod(v.get_shape()) for v in node.outputs())
            now += held[name]
        most = max(most, now)
        for done in [k for k in held if last[k] == step]:
            now -= held.pop(done)
    return most


def _chains(graph: Any, large: int) -> Iterator[list[Any]]:
    """Layers that follow each other, of which all but the last one are large and feed only the next."""
    taken: set[str] = set()
    for node in graph.get_ordered_ops():
        if node.get_name() in taken or _source(node) is None:
            continue
        chain = [node]
        while (following := _following(chain[-1].output(0), large)) is not None:
            chain.append(following)
        taken.update(node.get_name() for node in chain)
        while chain and chain[0].get_type_name() in _BY_PIXEL:
            del chain[0]
        if sum(node.get_type_name() not in _BY_PIXEL for node in chain) > 1:
            yield chain


def _following(layer: Any, large: int) -> Any:
    """The only node that a large layer feeds, if rows of it follow from rows of the layer."""
    users = list(layer.get_target_inputs())
    if len(users) != 1 or math.prod(layer.get_shape()) < large:
        return None
    node = users[0].get_node()
    return node if _source(node) == layer else None


def _source(node: Any) -> Any:
    """The layer whose rows are those of a node's output, or what lies around them; None if there is no such layer."""
    kind, shape = node.get_type_name(), tuple(node.output(0).get_shape())
    if len(shape) != 4:
        return None
    if kind in _CONVOLUTIONS + _TRANSPOSED:
        attributes, (stride, above, reach) = node.get_attributes(), _kernel(node)
        plain = attributes["auto_pad"] == "explicit" and not any(attributes.get("output_padding", ()))
        within = max(above, attributes["pads_end"][0]) <= reach and (kind in _CONVOLUTIONS or stride <= reach + 1)
        return node.input_value(0) if plain and within and node.get_input_size() == 2 else None
    if kind not in _BY_PIXEL or (kind == "Softmax" and node.get_attributes()["axis"] != 1):
        return None
    layers = [value for value in node.input_values() if not _in_every_row(value)]
    alike = all(tuple(layer.get_shape())[_ROWS:] == shape[_ROWS:] for layer in layers)
    return layers[0] if layers and alike else None


def _in_every_row(value: Any) -> bool:
    """Whether a value is a constant, and the same in every row."""
    return value.get_node().get_type_name() == "Constant" and (1, 1, *value.get_shape())[-2] == 1


def _band(chain: list[Any], lo: int, hi: int) -> Any:
    """Rows [lo, hi) of what a chain of layers gives."""
    spans = [(lo, hi)]
    for node in reversed(chain):
        first, end = _rows_needed(node, *spans[-1])
        spans.append((max(first, 0), min(end, _source(node).get_shape()[_ROWS])))
    spans.reverse()
    layer = _slice(_source(chain[0]), *spans[0])
    for node, given, wanted in zip(chain, spans, spans[1:], strict=False):
        layer = _on_rows(node, layer, given, wanted)
    return layer


def _rows_needed(node: Any, lo: int, hi: int) -> tuple[int, int]:
    """Rows of its source that rows [lo, hi) of a node need, also those that would lie beyond its edges."""
    kind = node.get_type_name()
    if kind in _BY_PIXEL:
        return lo, hi
    stride, pad, reach = _kernel(node)
    if kind in _TRANSPOSED:
        return -(-(lo + pad - reach) // stride), (hi - 1 + pad) // stride + 1
    return lo * stride - pad, (hi - 1) * stride - pad + reach + 1


def _on_rows(node: Any, layer: Any, given: tuple[int, int], wanted: tuple[int, int]) -> Any:
    """Rows `wanted` of a node, from rows `given` of its source; beyond the edges of the source it pads as before."""
    kind, attributes = node.get_type_name(), node.get_attributes()
    if kind in _BY_PIXEL:
        source = _source(node)
        others = (
            _copy(v) if _in_every_row(v) else layer if v == source else _slice(v, *wanted) for v in node.input_values()
        )
        return _create(kind, list(others), attributes)
    first, end = _rows_needed(node, *wanted)
    before, after = given[0] - first, end - given[1]
    if kind in _TRANSPOSED:  # it begins above and ends below what is wanted by what its pads then cut off
        stride, pad, reach = _kernel(node)
        before = wanted[0] + pad - stride * given[0]
        after = stride * (given[1] - given[0] - 1) + reach + 1 - before - (wanted[1] - wanted[0])
    pads = {"pads_begin": [before, attributes["pads_begin"][1]], "pads_end": [after, attributes["pads_end"][1]]}
    return _create(kind, [layer, node.input_value(1)], attributes | pads)


def _kernel(node: Any) -> tuple[int, int, int]:
    """Stride, rows of padding above, and how many rows the kernel reaches from its first to its last one."""
    attributes = node.get_attributes()
    reach = (node.input_value(1).get_shape()[-2] - 1) * attributes["dilations"][0]
    return attributes["strides"][0], attributes["pads_begin"][0], reach


def _slice(layer: Any, lo: int, hi: int) -> Any:
    from openvino import opset13 as op

    if (lo, hi) == (0, layer.get_shape()[_ROWS]):
        return layer
    return op.slice(layer, *(op.constant(np.array([v])) for v in (lo, hi, 1, _ROWS))).output(0)


def _copy(value: Any) -> Any:
    """A constant of its own: OpenVINO adds a bias as part of a convolution only where no other node uses it."""
    from openvino import opset13 as op

    return op.constant(value.get_node().data).output(0)


def _create(kind: str, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    from openvino.utils.node_factory import NodeFactory

    return NodeFactory("opset13").create(kind, inputs, attributes).output(0)
