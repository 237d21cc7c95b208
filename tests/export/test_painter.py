"""The painter's graph paints as its network does."""

import jax.numpy as jnp
import numpy as np
import onnxruntime as ort
from flax import nnx

from veilcam.camera.painting import NOISE_SIZE, NUM_VALUES, PATCH_HW
from veilcam.export.graph import build_graph
from veilcam.model.painter import Painter


def test_the_graph_paints_what_the_painter_paints() -> None:
    random = np.random.default_rng(0)
    painter = Painter(rngs=nnx.Rngs(0))
    shape = painter.to_patch.kernel[...].shape  # a fresh one would show the given colours alone
    painter.to_patch.kernel[...] += jnp.asarray(random.normal(0, 0.02, shape), jnp.float32)
    values = random.random((1, NUM_VALUES), np.float32)
    latent = random.standard_normal((1, NOISE_SIZE)).astype(np.float32)
    model = build_graph(painter.paint, num_values=NUM_VALUES, num_latent=NOISE_SIZE)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (bgra,) = session.run(["bgra"], {"values": values, "latent": latent})
    assert bgra.shape == (1, *PATCH_HW, 4)
    wanted = 255 * np.asarray(painter.paint(jnp.asarray(values[0]), jnp.asarray(latent[0])))
    assert np.abs(bgra[0] - wanted).max() <= 1.5
    assert not {"Pad", "Loop", "ScatterND"} & {node.op_type for node in model.graph.node}
