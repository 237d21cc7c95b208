"""int8 stays near fp32, says how near, and a gate stops it where it does not."""

from typing import Any

import numpy as np
import onnx
import pytest

from veilcam.camera.errors import GraphError
from veilcam.export.bundle import draw_feeds
from veilcam.export.parity import check_parity, measure_psnr
from veilcam.export.quantize import QuantizationReport, quantize_graph

Quantized = tuple[Any, QuantizationReport]


@pytest.fixture(scope="module")
def quantized(fp32_graph: Any, latents: dict[str, np.ndarray]) -> Quantized:
    return quantize_graph(fp32_graph, draw_feeds(latents["mean"], latents["chol"], 16, seed=0))


def _dtypes(model: Any) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_weights_are_int8_per_channel(quantized: Quantized) -> None:
    model, report = quantized
    left = set(report.fp32_nodes)
    convs = [n for n in model.graph.node if n.op_type == "Conv" and n.name not in left]
    makers = {out: node for node in model.graph.node for out in node.output}
    assert convs
    for conv in convs:
        weight = makers[conv.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert _dtypes(model)[weight.input[0]] == onnx.TensorProto.INT8
        sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
        assert sizes[weight.input[1]] == sizes[weight.input[0]][:1]


def test_report_holds_a_finite_sqnr_for_every_convolution(
    fp32_graph: Any, quantized: Quantized
) -> None:
    sqnr_db = quantized[1].sqnr_db
    assert len(sqnr_db) >= sum(node.op_type == "Conv" for node in fp32_graph.graph.node)
    assert all(np.isfinite(value) and value > 10 for value in sqnr_db.values())


def test_noisy_layers_are_left_in_fp32(fp32_graph: Any, latents: dict[str, np.ndarray]) -> None:
    feeds = draw_feeds(latents["mean"], latents["chol"], 8, seed=0)
    _, report = quantize_graph(fp32_graph, feeds, sqnr_floor_db=150.0, max_fp32_nodes=1)
    assert len(report.fp32_nodes) == 1


def test_parity_passes_on_unseen_codes(
    fp32_graph: Any, quantized: Quantized, latents: dict[str, np.ndarray]
) -> None:
    feeds = draw_feeds(latents["mean"], latents["chol"], 32, seed=1)
    report = check_parity(fp32_graph, quantized[0], feeds)
    assert report.num_codes == 32
    assert report.psnr_db >= 35
    assert report.worst_psnr_db <= report.psnr_db + 6


def test_parity_gate_stops_a_broken_int8_graph(
    fp32_graph: Any, quantized: Quantized, latents: dict[str, np.ndarray]
) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(quantized[0])
    weights = next(t for t in broken.graph.initializer if t.data_type == 3 and len(t.dims) == 4)
    weights.raw_data = bytes(len(weights.raw_data))
    feeds = draw_feeds(latents["mean"], latents["chol"], 32, seed=1)
    with pytest.raises(GraphError, match=r"PSNR .* dB over 32 codes, wanted >= 35.0 dB"):
        check_parity(fp32_graph, broken, feeds)


def test_parity_wants_enough_codes(
    fp32_graph: Any, quantized: Quantized, latents: dict[str, np.ndarray]
) -> None:
    feeds = draw_feeds(latents["mean"], latents["chol"], 31, seed=1)
    with pytest.raises(GraphError, match="got 31 codes, wanted at least 32"):
        check_parity(fp32_graph, quantized[0], feeds)


def test_psnr_of_known_pictures() -> None:
    black, one = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    assert measure_psnr(black, black) == 100.0
    assert measure_psnr(black, one) == pytest.approx(48.13, abs=0.01)
