"""The rewritten graph computes the same and has no PRelu left."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from veilcam.camera.prelu import without_prelu

onnx = pytest.importorskip("onnx")


def model(slope: np.ndarray, *, is_raw: bool = True) -> bytes:
    helper, kinds = onnx.helper, onnx.TensorProto
    shape = [1, slope.shape[0], 4, 5]
    weights = onnx.numpy_helper.from_array(slope, "slope")
    if not is_raw:
        weights = helper.make_tensor("slope", kinds.FLOAT, slope.shape, slope.ravel().tolist())
    graph = helper.make_graph(
        [helper.make_node("PRelu", ["x", "slope"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", kinds.FLOAT, shape)],
        [helper.make_tensor_value_info("y", kinds.FLOAT, shape)],
        [weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    data: bytes = made.SerializeToString()
    return data


def run(data: bytes, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: x})
    return outputs


def operators(data: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(data).graph.node}


def test_slopes_of_every_size_give_the_same_values() -> None:
    slope = np.array([0.0, 0.25, 1.0, 1.4, -1.6], np.float32).reshape(5, 1, 1)
    data = model(slope)
    new = without_prelu(data)
    onnx.checker.check_model(onnx.load_from_string(new))
    assert "PRelu" not in operators(new)
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(run(new, x)[0], run(data, x)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("slope", "is_raw"),
    [
        (np.full((3, 1, 1), 0.2, np.float32), False),
        (np.full((3, 4, 5), 0.2, np.float32), True),
        (np.full((3, 1, 1), 0.2, np.float64), True),
    ],
)
def test_what_is_no_slope_per_channel_stays(slope: np.ndarray, is_raw: bool) -> None:
    data = model(slope.astype(np.float32) if not is_raw else slope, is_raw=is_raw)
    assert without_prelu(data) == data


def test_the_face_mesh_finds_the_same_points() -> None:
    data = Path(str(files("veilcam.camera") / "assets/facemesh.onnx")).read_bytes()
    new = without_prelu(data)
    assert "PRelu" in operators(data)
    assert "PRelu" not in operators(new)
    x = np.random.default_rng(1).random((1, 192, 192, 3), np.float32)
    for got, wanted in zip(run(new, x), run(data, x), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_a_model_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="cut off"):
        without_prelu(model(np.ones((3, 1, 1), np.float32))[:-3])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted an ONNX model"):
        without_prelu(b"\x3f\x00")
