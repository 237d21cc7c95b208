"""The int8 graph: static QDQ, u8 activations, s8 per-channel weights, worst layers left in fp32."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import ModelProto, NodeProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.qdq_loss_debug import (
    collect_activations,
    compute_activation_error,
    create_activation_matching,
    modify_model_output_intermediate_tensors,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from veilcam.export.net import Net
from veilcam.export.rewrite_math import VIEW_OPS

_log = logging.getLogger(__name__)

# Relu and Clip melt into the Conv before them. The style's Add stays in fp32 (QLinearAdd broadcasts
# slowly), and so does Gemm: the style part is tiny, and it decides who the head is.
_OUTPUT_OPS = (*VIEW_OPS, "DequantizeLinear", "Mul", "Round", "Clip", "Cast")
QUANTIZED_OPS = ("Conv", "Resize", "Relu", "Clip", "Concat")
Feed = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """What was done: signal-to-noise of each activation and the nodes left in fp32."""

    sqnr_db: dict[str, float]
    fp32_nodes: tuple[str, ...]


def make_feeds(
    values: Float32[np.ndarray, "n f"], latents: Float32[np.ndarray, "n z"]
) -> list[Feed]:
    """One feed of the graph for each code: values in their units, and a latent."""
    return [
        {"values": code[None], "latent": latent[None]}
        for code, latent in zip(values, latents, strict=True)
    ]


class CodeReader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the calibration feeds to ONNX Runtime."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self.rewind()

    def rewind(self) -> None:
        """Start again from the first feed."""
        self._iterator: Iterator[Feed] = iter(self._feeds)

    def get_next(self) -> Feed | None:
        """The next feed, None at the end."""
        return next(self._iterator, None)


def clip_ranges(model: ModelProto) -> dict[str, tuple[float, float]]:
    """Ranges that the graph itself guarantees: of Clip, and of what only moves clipped numbers."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    known: dict[str, tuple[float, float]] = {}
    for node in model.graph.node:
        if node.op_type == "Clip" and all(name in constants for name in node.input[1:]):
            low, high = (float(constants[name].reshape(-1)[0]) for name in node.input[1:])
            known[node.output[0]] = low, high
        elif node.op_type in ("Resize", "Transpose", "Reshape", "Concat"):
            inputs = node.input if node.op_type == "Concat" else node.input[:1]
            if all(name in known for name in inputs):
                lows, highs = zip(*(known[name] for name in inputs), strict=True)
                known[node.output[0]] = min(lows), max(highs)
    return known


def _quantize(source: Path, target: Path, feeds: Sequence[Feed], excluded: Sequence[str]) -> None:
    model = onnx.load(str(source))
    ranges = clip_ranges(model)
    # joins of maps only: landmarks on 256 places were off by a pixel and cost 5 dB
    joins = [n for n in model.graph.node if n.op_type == "Concat"]
    numbers = [node.name for node in joins if node.output[0] not in ranges]
    overrides = {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in ranges.items()
    }
    quantize_static(
        str(source),
        str(target),
        CodeReader(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTIZED_OPS),
        nodes_to_exclude=[*excluded, *numbers],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        # the mean range over codes: one outlier code cost 5 dB on all others
        extra_options={"CalibMovingAverage": True, "TensorQuantOverrides": overrides},
    )


def shorten_output(model: ModelProto) -> ModelProto:
    """The bytes of the last tensor are the picture's: no way through float and back.

    The last Clip guarantees [0, 1], so the tensor's scale is 1/255 and its zero point 0; to
    dequantize, multiply by 255, round and cast gives the same bytes. Other graphs stay as they are.
    """
    net = Net(model)
    chain: list[NodeProto] = []
    name = model.graph.output[0].name
    while (node := net.maker.get(name)) is not None and node.op_type in _OUTPUT_OPS:
        chain.insert(0, node)
        name = node.input[0]
    first = chain[0] if chain else None
    if first is None or first.op_type != "DequantizeLinear":
        return model
    scale, zero = (net.constants[n] for n in first.input[1:])
    ops = [node.op_type for node in chain if node.op_type in ("Mul", "Round", "Cast")]
    factor = next((net.constants.get(n.input[1]) for n in chain if n.op_type == "Mul"), None)
    if ops != ["Mul", "Round", "Cast"] or factor is None or not np.all(factor == 255):
        return model
    if zero != 0 or not np.isclose(scale, 1 / 255):
        return model
    views = [node for node in chain if node.op_type in VIEW_OPS]
    last = first.input[0]
    for index, view in enumerate(views):
        view.input[0] = last
        last = f"byte_view_{index}" if index < len(views) - 1 else model.graph.output[0].name
        view.output[0] = last
    kept = {id(node) for node in views}
    for node in chain:
        if id(node) not in kept:
            net.model.graph.node.remove(node)
    del net.model.graph.value_info[:]
    onnx.checker.check_model(net.model, full_check=True)
    return net.model


def measure_sqnr(fp32: Path, int8: Path, feeds: Sequence[Feed]) -> dict[str, float]:
    """Signal to quantization noise in dB of each activation, with all layers before it in int8."""
    collected: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in (fp32, int8):
            debug = Path(folder) / f"{path.stem}_debug.onnx"
            modify_model_output_intermediate_tensors(str(path), str(debug))
            collected.append(collect_activations(str(debug), CodeReader(feeds)))
    matched = create_activation_matching(collected[1], collected[0])
    errors = compute_activation_error(matched)
    return {
        name: float(min(error["xmodel_err"], 200.0))
        for name, error in errors.items()
        if np.isfinite(error["xmodel_err"])
    }


def _worst_convs(model: ModelProto, sqnr_db: dict[str, float], floor_db: float) -> list[str]:
    """Names of Conv nodes whose output falls below the floor, worst first."""
    made = {out: n.name for n in model.graph.node if n.op_type == "Conv" for out in n.output}
    for node in model.graph.node:  # a Clip or Relu behind it melts into the Conv
        if node.op_type in ("Clip", "Relu") and node.input[0] in made:
            made[node.output[0]] = made[node.input[0]]
    low = sorted((db, made[name]) for name, db in sqnr_db.items() if name in made)
    return [name for db, name in low if db < floor_db]


def quantize_graph(
    fp32: ModelProto,
    feeds: Sequence[Feed],
    *,
    sqnr_floor_db: float = 15.0,
    max_fp32_nodes: int = 2,
    excluded: Sequence[str] = (),
) -> tuple[ModelProto, QuantizationReport]:
    """The int8 graph and its per-layer report.

    Args:
        fp32: Graph of `export.graph.build_graph`.
        feeds: Calibration codes drawn from the training distribution.
        sqnr_floor_db: A convolution whose output is noisier than this is left in fp32.
        max_fp32_nodes: At most so many convolutions are left.
        excluded: Names of nodes to leave in fp32 whatever their noise.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, ready, target = (Path(folder) / f"{n}.onnx" for n in ("fp32", "ready", "int8"))
        onnx.save(fp32, str(source))
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True, skip_optimization=True)
        left = list(excluded)
        _quantize(ready, target, feeds, left)
        sqnr_db = measure_sqnr(ready, target, feeds[:8])
        worst = _worst_convs(fp32, sqnr_db, sqnr_floor_db)[:max_fp32_nodes]
        if worst:
            left += worst
            _quantize(ready, target, feeds, left)
            sqnr_db = measure_sqnr(ready, target, feeds[:8])
        _log.info("int8: %d convolutions left in fp32", len(left))
        model = shorten_output(onnx.load(str(target)))
    model.ir_version = fp32.ir_version
    onnx.checker.check_model(model)
    return model, QuantizationReport(sqnr_db=sqnr_db, fp32_nodes=tuple(left))
