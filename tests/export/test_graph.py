"""The exported graph computes what the module computes, in a form that quantizes."""

from collections import Counter
from typing import Any

import jax.numpy as jnp
import numpy as np

from veilcam.export.bundle import draw_feeds
from veilcam.export.parity import paint


def test_graph_paints_what_the_module_paints(
    stand_in: Any, fp32_graph: Any, latents: dict[str, np.ndarray]
) -> None:
    for feed in draw_feeds(latents["mean"], latents["chol"], 4, seed=3):
        exact = np.asarray(stand_in(jnp.asarray(feed["values"][0]), jnp.asarray(feed["latent"][0])))
        assert np.abs(paint(fp32_graph, [feed])[0] - exact * 255).max() <= 0.51


def test_graph_has_static_shapes_and_byte_output(fp32_graph: Any) -> None:
    sides = (*fp32_graph.graph.input, *fp32_graph.graph.output)
    got = {
        v.name: (v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in sides
    }
    assert got == {"values": (1, [1, 12]), "latent": (1, [1, 64]), "bgra": (2, [1, 128, 128, 4])}


def test_no_transpose_stands_between_convolutions(fp32_graph: Any) -> None:
    makers = {out: node for node in fp32_graph.graph.node for out in node.output}
    convs = [node for node in fp32_graph.graph.node if node.op_type == "Conv"]
    assert len(convs) == 4
    assert all(len(node.input) == 3 for node in convs)
    before = [makers[node.input[0]].op_type for node in convs]
    assert before.count("Resize") >= 2
    assert "Transpose" not in before[1:]


def test_clipping_stands_next_to_its_convolution(fp32_graph: Any) -> None:
    ops = Counter(node.op_type for node in fp32_graph.graph.node)
    assert ops["Clip"] >= 7
    assert ops["Relu"] >= 1
    assert not {"Max", "Min", "Shape", "Range", "Gather", "Einsum"} & set(ops)
    users = {name: node for node in fp32_graph.graph.node for name in node.input}
    convs = [node for node in fp32_graph.graph.node if node.op_type == "Conv"]
    assert {users[node.output[0]].op_type for node in convs} == {"Clip"}
