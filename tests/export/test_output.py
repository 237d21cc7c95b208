"""The int8 graph ends in the bytes of its last tensor."""

from collections import Counter
from typing import Any

import numpy as np
import onnx

from veilcam.export.bundle import draw_feeds
from veilcam.export.parity import paint
from veilcam.export.quantize import clip_ranges, quantize_graph, shorten_output


def test_ranges_follow_clipped_numbers_through_views_and_joins(fp32_graph: Any) -> None:
    ranges = clip_ranges(fp32_graph)
    nodes = {node.op_type: node for node in fp32_graph.graph.node}
    assert ranges[nodes["Resize"].output[0]] == (0.0, 6.0)
    assert (-8.0, 8.0) in ranges.values()
    assert (0.0, 1.0) in ranges.values()


def test_bytes_are_not_taken_through_float_again(
    fp32_graph: Any, latents: dict[str, np.ndarray]
) -> None:
    feeds = draw_feeds(latents["mean"], latents["chol"], 8, seed=0)
    model, _ = quantize_graph(fp32_graph, feeds)
    ops = Counter(node.op_type for node in model.graph.node)
    assert not {"Round", "Cast"} & set(ops)
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert paint(model, feeds[:1]).shape == (1, 128, 128, 4)


def test_a_graph_that_ends_otherwise_stays_as_it_is(fp32_graph: Any) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(fp32_graph)
    assert shorten_output(copy).SerializeToString() == fp32_graph.SerializeToString()
