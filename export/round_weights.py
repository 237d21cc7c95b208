"""Convolution weights on int8's grid, each rounding error made good by the weights after it.

Rounding each weight to the nearest step alone cost 3 dB more. Both graphs of a bundle get the same
rounded weights, so the two differ by the rounding of maps only.
Source: Frantar et al. 2023, GPTQ, section 3.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from jaxtyping import Float
from onnx import ModelProto, numpy_helper

from veilcam.export.net import Net
from veilcam.export.observe import observe

_TOP = 127
_DAMPING = 0.01  # of the mean input power
_MAX_ROWS = 8000


def round_weights(
    model: ModelProto,
    feeds: Sequence[dict[str, np.ndarray]],
    gains: Mapping[str, Float[np.ndarray, " c"]],
) -> ModelProto:
    """The graph with every 3x3 convolution's weights on the grid of its output channel.

    Args:
        model: The fp32 graph; convolutions have kernel (o, c, 3, 3), stride 1 and padding 1.
        feeds: Calibration codes.
        gains: For some convolutions, the scale of each input channel that the int8 graph applies
            before (see `export.widen`): it divides the weights that are rounded there.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    net = Net(model)
    tensors = {t.name: t for t in rounded.graph.initializer}
    for conv in net.nodes("Conv"):
        weight = net.constants[conv.input[1]]
        num_in = weight.shape[1]
        maps = observe(model, [conv.input[0]], feeds)[conv.input[0]]
        moment = second_moment(maps, weight.shape[2])
        scale = np.repeat(gains.get(conv.name, np.ones(num_in)), weight[0, 0].size)
        flat = gptq(weight.reshape(len(weight), -1).astype(np.float64), moment, scale)
        new = numpy_helper.from_array(flat.reshape(weight.shape).astype(np.float32), conv.input[1])
        tensors[conv.input[1]].CopyFrom(new)
    return rounded


def second_moment(
    maps: Sequence[Float[np.ndarray, "1 c h w"]], size: int
) -> Float[np.ndarray, "d d"]:
    """Mean outer product of the patches that a padded `size` x `size` convolution reads."""
    pad = size // 2
    random = np.random.default_rng(0)
    each = -(-_MAX_ROWS // len(maps))
    rows = []
    for value in maps:
        padded = np.pad(value[0], ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
        height, width = windows.shape[1:3]
        places = random.permutation(height * width)[:each]
        taken = windows[:, places // width, places % width]  # (c, n, k, k)
        rows.append(np.moveaxis(taken, 1, 0).reshape(len(places), -1))
    stack = np.concatenate(rows).astype(np.float32)
    moment: np.ndarray = (stack.T @ stack / len(stack)).astype(np.float64)
    return moment


def gptq(
    weight: Float[np.ndarray, "o d"],
    moment: Float[np.ndarray, "d d"],
    scale: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "o d"]:
    """Weights that are whole multiples of (row step x column scale), outputs nearly kept.

    The step of a row is fixed by its largest weight, which stays at 127 steps: whoever quantizes
    the result again by its largest weight finds the same grid.
    """
    steps = np.abs(weight / scale).max(1) / _TOP + 1e-12
    largest = np.abs(weight / scale).argmax(1)
    order = np.argsort(-np.diag(moment), kind="stable")
    damped = moment + _DAMPING * np.diag(moment).mean() * np.eye(len(moment))
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left, out = weight[:, order].copy(), np.empty_like(weight)
    for at, column in enumerate(order):
        unit = steps * scale[column]
        whole = np.clip(np.round(left[:, at] / unit), -_TOP, _TOP)
        whole = np.where(largest == column, np.sign(weight[:, column]) * _TOP, whole)
        out[:, column] = whole * unit
        error = (left[:, at] - out[:, column]) / upper[at, at]
        left[:, at + 1 :] -= np.outer(error, upper[at, at + 1 :])
    return out
