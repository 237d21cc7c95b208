"""The gate between fp32 and int8: how far apart they paint, and whether that may ship."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from jaxtyping import Shaped, UInt8
from onnx import ModelProto

from veilcam.camera.errors import GraphError
from veilcam.camera.generator import premultiply
from veilcam.export.quantize import Feed

MIN_CODES = 32
PSNR_FLOOR_DB = 35.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Distance of int8 from fp32 over all codes: one pooled PSNR, and the worst code's.

    Of what can be seen: colour weighted by alpha, and alpha.
    """

    psnr_db: float
    worst_psnr_db: float
    num_codes: int


def measure_psnr(a: Shaped[np.ndarray, "..."], b: Shaped[np.ndarray, "..."]) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of range 0..255; 100 where equal."""
    error = np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))
    return 100.0 if error == 0 else float(10 * np.log10(255.0**2 / error))


def paint(model: ModelProto, feeds: Sequence[Feed]) -> UInt8[np.ndarray, "n h w 4"]:
    """Pictures of all feeds, CPU provider, graph optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(["bgra"], feed)[0] for feed in feeds])


def check_parity(
    fp32: ModelProto,
    int8: ModelProto,
    feeds: Sequence[Feed],
    *,
    floor_db: float = PSNR_FLOOR_DB,
) -> ParityReport:
    """The distance of the two graphs, on codes that calibration did not see.

    Raises:
        GraphError: Fewer than 32 codes, a constant output, or a PSNR below the floor.
    """
    if len(feeds) < MIN_CODES:
        raise GraphError(
            f"parity got {len(feeds)} codes, wanted at least {MIN_CODES}; draw more codes"
        )
    exact, quantized = paint(fp32, feeds), paint(int8, feeds)
    if np.ptp(exact) == 0:
        raise GraphError("the fp32 graph paints one flat colour; the run is not trained, train it")
    exact, quantized = premultiply(exact), premultiply(quantized)
    each = [measure_psnr(a, b) for a, b in zip(exact, quantized, strict=True)]
    report = ParityReport(
        psnr_db=measure_psnr(exact, quantized), worst_psnr_db=min(each), num_codes=len(feeds)
    )
    if report.psnr_db < floor_db:
        raise GraphError(
            f"int8 differs from fp32: PSNR {report.psnr_db:.1f} dB over {len(feeds)} codes, wanted"
            f" >= {floor_db:.1f} dB; leave more layers in fp32 (raise sqnr_floor_db) or calibrate"
            " on more codes"
        )
    return report
