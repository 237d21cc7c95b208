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
from onnx import ModelProto, TensorProto, helper

from veilcam.camera.manifest import CodeInput
from veilcam.export.rewrite import rewrite

OPSET = 21
IR_VERSION = 10
GenerateFn = Callable[[Any, Any], Any]  # one example: code (n,), latent (z,) -> (h, w, 4)


def _as_bytes(generate: GenerateFn) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Wrap a one-example generator: batch axis in, rounded uint8 BGRA out."""
    scale = np.asarray([127.5, 127.5, 127.5, 255.0], np.float32)
    shift = np.asarray([127.5, 127.5, 127.5, 0.0], np.float32)

    def run(levels: jax.Array, latent: jax.Array) -> jax.Array:
        bgra = jax.vmap(generate)(levels, latent)
        n, h, w, _ = bgra.shape
        # Whole rows: an elementwise kernel that broadcasts along 4 numbers is ten times slower.
        rows = bgra.reshape(n, h, w * 4) * np.tile(scale, w) + np.tile(shift, w)
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


def _widen_levels(model: ModelProto) -> None:
    """Make the `levels` input int64, as the bundle's schema says (JAX traced it as int32)."""
    graph = model.graph
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "levels":
                node.input[i] = "levels_int32"
    cast = helper.make_node("Cast", ["levels"], ["levels_int32"], "cast", to=TensorProto.INT32)
    graph.node.insert(0, cast)
    entry = next(v for v in graph.input if v.name == "levels")
    entry.type.tensor_type.elem_type = TensorProto.INT64


def build_graph(
    generate: GenerateFn,
    *,
    num_levels: int,
    num_latent: int,
    code_input: CodeInput = "levels",
) -> ModelProto:
    """The fp32 graph `levels` int64 (1, n), `latent` float32 (1, z) -> `bgra` uint8 (1, h, w, 4).

    The function is traced before jax2onnx sees it: its layer patches know no `vmap`.

    Args:
        generate: One example: integer levels (n,) and latent (z,) to (h, w, 4), BGR in [-1, 1]
            and alpha in [0, 1].
        num_levels: Number of quantized dynamic fields n.
        num_latent: Length z of the latent.
        code_input: `values` makes a graph whose first input is float32: the fields in their units.
    """
    code_dtype = jnp.int32 if code_input == "levels" else jnp.float32
    specs = [
        jax.ShapeDtypeStruct((1, num_levels), code_dtype),  # type: ignore[no-untyped-call]
        jax.ShapeDtypeStruct((1, num_latent), jnp.float32),  # type: ignore[no-untyped-call]
    ]
    traced = jaxpr_as_fun(jax.make_jaxpr(_as_bytes(generate))(*specs))
    model = to_onnx(
        lambda levels, latent: traced(levels, latent)[0],
        specs,
        model_name="veilcam_head",
        opset=OPSET,
        input_names=[code_input, "latent"],
        output_names=["bgra"],
    )
    if code_input == "levels":
        _widen_levels(model)
    folded = _optimize(model, keep_transposes=True)
    clean = _optimize(rewrite(folded), keep_transposes=False)
    clean.ir_version = IR_VERSION
    onnx.checker.check_model(clean, full_check=True)
    return clean
