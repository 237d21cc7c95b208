"""The fp32 ONNX graph of a head generator: static shapes, uint8 BGRA out, clean convolutions."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime as ort
from jax.extend.core import jaxpr_as_fun
from jax2onnx import to_onnx
from onnx import ModelProto

from veilcam.export.rewrite import rewrite

OPSET = 21
IR_VERSION = 10
GenerateFn = Callable[[Any, Any], Any]  # one example: values (f,), latent (z,) -> (h, w, 4)


def _as_bytes(generate: GenerateFn) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Wrap a one-example generator: batch axis in, rounded uint8 BGRA out."""

    def run(values: jax.Array, latent: jax.Array) -> jax.Array:
        bgra = jax.vmap(generate)(values, latent)
        n, h, w, _ = bgra.shape
        # Whole rows: an elementwise kernel that broadcasts along 4 numbers is ten times slower.
        rows = bgra.reshape(n, h, w * 4) * np.full(w * 4, 255.0, np.float32)
        return jnp.clip(jnp.round(rows), 0.0, 255.0).astype(jnp.uint8).reshape(n, h, w, 4)

    return run


def _optimize(model: ModelProto, *, keep_transposes: bool) -> ModelProto:
    """Constants folded and, unless kept, transposes moved and cancelled by ONNX Runtime."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    disabled = ["TransposeOptimizer"] if keep_transposes else []
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled,
        )
        return onnx.load(options.optimized_model_filepath)


def build_graph(generate: GenerateFn, *, num_values: int, num_latent: int) -> ModelProto:
    """The fp32 graph: `values` (1, f), `latent` (1, z), float32 -> `bgra` uint8 (1, h, w, 4).

    The function is traced before jax2onnx sees it: its layer patches know no `vmap`.

    Args:
        generate: One example: values (f,) in their units and latent (z,) to (h, w, 4), BGR and
            alpha in [0, 1].
        num_values: Number f of fields of the code.
        num_latent: Length z of the latent.
    """
    specs = [
        jax.ShapeDtypeStruct((1, num_values), jnp.float32),  # type: ignore[no-untyped-call]
        jax.ShapeDtypeStruct((1, num_latent), jnp.float32),  # type: ignore[no-untyped-call]
    ]
    traced = jaxpr_as_fun(jax.make_jaxpr(_as_bytes(generate))(*specs))
    model = to_onnx(
        lambda values, latent: traced(values, latent)[0],
        specs,
        model_name="veilcam_head",
        opset=OPSET,
        input_names=["values", "latent"],
        output_names=["bgra"],
    )
    folded = _optimize(model, keep_transposes=True)
    clean = _optimize(rewrite(folded), keep_transposes=False)
    clean.ir_version = IR_VERSION
    onnx.checker.check_model(clean, full_check=True)
    return clean
