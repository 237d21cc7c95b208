"""The generator at run time: one ONNX Runtime session, codes in, painted patches out."""

import logging
from typing import Any

import numpy as np
import onnxruntime as ort
from jaxtyping import Float32, UInt8

from veilcam.camera.actor_code import neutral_values
from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.errors import ConfigError, GraphError
from veilcam.camera.manifest import MODES, Bundle, Precision
from veilcam.camera.types import Codes, Patches

_log = logging.getLogger(__name__)

WARMUP_ITERATIONS = 3


class Generator:
    """Paints one patch for each head of a code. It never sees a pixel.

    Args:
        bundle: Verified bundle; the graph's hash is checked again as it is read.
        precision: `int8` (quantized) or `fp32`.
        threads: Threads that one run may use.
        execution_provider: Full ONNX Runtime name. One that is not there is an error, never a
            silent fall back.

    Raises:
        ConfigError: Unknown precision, provider or thread count.
        GraphError: The graph cannot be loaded or has other inputs or outputs than the manifest.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: Precision = "int8",
        threads: int = 2,
        execution_provider: str = "CPUExecutionProvider",
    ) -> None:
        _check_settings(precision, threads, execution_provider)
        self.bundle = bundle
        self.precision = precision
        self.threads = threads
        self.execution_provider = execution_provider
        self._session = _open_session(
            bundle.graph_bytes(precision), threads, execution_provider, f"{precision}.onnx"
        )
        _check_io(self._session, bundle)
        inputs = bundle.manifest["inputs"]
        self._num_values = inputs["values"]["shape"][1]
        self._num_latent = inputs["latent"]["shape"][1]
        self._patch_hw = MODES[bundle.manifest["mode"]].patch_hw
        middle = _middle_values(bundle.manifest["mode"])
        for _ in range(WARMUP_ITERATIONS):  # the first runs allocate and pack weights
            self.paint(middle, bundle.mean)
        _log.info(
            "generator: %s on %s, %d threads, bundle %s",
            precision,
            execution_provider,
            threads,
            bundle.sha256[:16],
        )

    def __call__(self, codes: Codes) -> Patches:
        """One patch for each head, in the code's order.

        Raises:
            GraphError: A code has the wrong length or is not finite, or the graph fails.
        """
        return Patches(bgra=tuple(self.paint(head.values, head.latent) for head in codes.heads))

    def paint(
        self, values: Float32[np.ndarray, " f"], latent: Float32[np.ndarray, " z"]
    ) -> UInt8[np.ndarray, "h w 4"]:
        """The BGRA patch, straight alpha, of one code: values in their units, and latent."""
        if values.shape != (self._num_values,) or latent.shape != (self._num_latent,):
            raise GraphError(
                f"code has shapes {values.shape} and {latent.shape}, wanted"
                f" ({self._num_values},) and ({self._num_latent},); use codes of this bundle"
            )
        if not (np.isfinite(latent).all() and np.isfinite(values).all()):
            raise GraphError("code or latent is not finite, wanted numbers; start a new track")
        feed = {
            "values": values.astype(np.float32, copy=False)[None],
            "latent": latent.astype(np.float32, copy=False)[None],
        }
        try:
            (bgra,) = self._session.run(["bgra"], feed)
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise GraphError(f"the generator failed ({type(error).__name__})") from error
        _check_patch(bgra, self._patch_hw)
        patch: UInt8[np.ndarray, "h w 4"] = bgra[0]
        return patch


def open_graph(data: bytes, *, threads: int, execution_provider: str) -> ort.InferenceSession:
    """A session with our options: no spinning (it starves small CPUs), denormals as zero."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Tails of the landmark maps underflow; denormal products made fp32 twice as slow.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    providers = [execution_provider]
    if execution_provider != "CPUExecutionProvider":
        providers.append("CPUExecutionProvider")  # for operators the provider lacks
    return ort.InferenceSession(data, options, providers=providers)


def _check_settings(precision: str, threads: int, execution_provider: str) -> None:
    if precision not in ("int8", "fp32"):
        raise ConfigError(f"precision={precision!r} must be int8 or fp32")
    if threads < 1:
        raise ConfigError(f"threads={threads} must be > 0")
    available = ort.get_available_providers()
    if execution_provider not in available:
        raise ConfigError(
            f"execution_provider {execution_provider} is not there, got {', '.join(available)};"
            " choose one of these or install the onnxruntime package that has it"
        )


def _open_session(
    data: bytes, threads: int, execution_provider: str, name: str
) -> ort.InferenceSession:
    try:
        session = open_graph(data, threads=threads, execution_provider=execution_provider)
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise GraphError(
            f"{name} cannot be loaded ({type(error).__name__}); export the run again"
        ) from error
    if session.get_providers()[0] != execution_provider:
        raise GraphError(
            f"{name} runs on {session.get_providers()[0]}, wanted {execution_provider};"
            " its driver is missing: see `veilcam doctor`"
        )
    return session


def _check_io(session: ort.InferenceSession, bundle: Bundle) -> None:
    names = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
    sides: dict[str, Any] = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    for side, values in sides.items():
        got = {v.name: {"shape": list(v.shape), "dtype": names.get(v.type, v.type)} for v in values}
        wanted = bundle.manifest[side]
        if got != wanted:
            raise GraphError(
                f"bundle {bundle.path}: graph {side} are {got}, wanted {wanted}; export it again"
            )


def _middle_values(mode: str) -> Float32[np.ndarray, " f"]:
    """Somebody or something plain, for the first runs."""
    if mode == "scene":
        return neutral_values()
    if mode == "frame":
        return np.full(MODES[mode].num_values, 0.5, np.float32)
    return np.asarray([(field.low + field.high) / 2 for field in HEAD_FIELDS], np.float32)


def _check_patch(bgra: np.ndarray, patch_hw: tuple[int, int]) -> None:
    if bgra.shape != (1, *patch_hw, 4) or bgra.dtype != np.uint8:
        raise GraphError(
            f"generator painted {bgra.dtype} {bgra.shape}, wanted uint8 (1, {patch_hw[0]},"
            f" {patch_hw[1]}, 4); export the bundle again"
        )
    if not bgra[..., 3].any():
        raise GraphError("generator painted a patch without any opaque pixel; export it again")


def premultiply(bgra: UInt8[np.ndarray, "*n h w 4"]) -> Float32[np.ndarray, "*n h w 4"]:
    """Colour as far as alpha lets it show, and alpha, 0..255: what of a patch can be seen."""
    out = bgra.astype(np.float32)
    out[..., :3] *= out[..., 3:] / 255
    return out
