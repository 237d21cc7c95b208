"""Maps with more than 256 steps for the int8 graph: a channel is cut into pieces of its range.

clip(x, 0, C) is the sum of clip(x, 0, C/2) and clip(x - C/2, 0, C/2). Both pieces, scaled to the
whole range of the 8-bit tensor, have half the rounding error, and the next convolution adds them
again: the function stays, in integers alone. Few channels carry most of the error, so few are cut.
Source: outlier channel splitting (Zhao et al. 2019, section 3), by range instead of by halves; the
gain of the uncut channels is cross-layer equalization (Nagel et al. 2019, section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Float, Int
from onnx import ModelProto, NodeProto, numpy_helper

from veilcam.export.net import Net
from veilcam.export.observe import observe

STEPS = 255
_COARSE = 0.01  # of a weight's rounding error, what `round_weights` cannot make good
_MAX_PIECES = 4
_GAINS = np.unique([*np.geomspace(1.0, 8.0, 49), 2.0, 3.0, 4.0])
_MAX_ROWS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How each channel of one convolution is cut.

    Attributes:
        reader: Name of the convolution behind it.
        ceiling: Upper end of the clip between the two; its lower end is 0.
        pieces: Number of pieces of each channel.
        gains: Scale of each channel before it is rounded.
    """

    reader: str
    ceiling: float
    pieces: Int[np.ndarray, " c"]
    gains: Float[np.ndarray, " c"]


def plan_splits(
    model: ModelProto, feeds: Sequence[dict[str, np.ndarray]], *, extra: float
) -> dict[str, Split]:
    """For each convolution whose clipped output one other convolution reads: how to cut it.

    Args:
        model: The fp32 graph.
        feeds: Calibration codes.
        extra: Channels that may be added to a convolution, as a share of those it has.
    """
    net = Net(model)
    found = {conv.name: found for conv in net.nodes("Conv") if (found := _pair(net, conv))}
    seen = observe(model, [clip.output[0] for clip, _, _ in found.values()], feeds)
    plan = {}
    for name, (clip, reader, ceiling) in found.items():
        maps = np.concatenate([np.moveaxis(m[0], 0, -1).reshape(-1, m.shape[1])
                               for m in seen[clip.output[0]]])  # fmt: skip
        num_extra = round(extra * maps.shape[1])
        pieces, gains = choose(maps, net.constants[reader.input[1]], ceiling, num_extra=num_extra)
        plan[name] = Split(reader=reader.name, ceiling=ceiling, pieces=pieces, gains=gains)
    return plan


def choose(
    maps: Float[np.ndarray, "n c"],
    weight: Float[np.ndarray, "o c kh kw"],
    ceiling: float,
    *,
    num_extra: int,
) -> tuple[Int[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Pieces and gains that leave least noise behind the next convolution, greedily.

    Rounding errors of maps reach it through its weights, and a gain makes its weights coarser.
    """
    strength = np.square(weight).sum((0, 2, 3))
    steps = np.abs(weight).max((1, 2, 3)) / 127
    coarse = _COARSE * np.square(steps).sum() / 12 * weight.shape[2] * weight.shape[3]
    tops = maps.max(0)
    maps = maps[:: max(1, len(maps) // _MAX_ROWS)]
    power = np.square(maps).mean(0)
    step = ceiling / STEPS
    noise = np.empty((_MAX_PIECES, len(_GAINS), maps.shape[1]))
    for g, gain in enumerate(_GAINS):
        levels = np.round(maps * gain / step)
        for p in range(_MAX_PIECES):
            error = np.minimum(levels, STEPS * (p + 1)) * step / gain - maps
            noise[p, g] = strength * np.square(error).mean(0) + gain**2 * power * coarse
            noise[p, g, gain * tops > ceiling * (p + 1) + step] = np.inf  # rare, but seen
            if gain < p + 1:  # would reach beyond the ceiling, where the function is flat
                noise[p, g] = np.inf
    best = noise.min(1)  # (pieces, channels)
    pieces, channels = np.ones(maps.shape[1], np.int64), np.arange(maps.shape[1])
    for _ in range(num_extra):
        now = best[pieces - 1, channels]
        more = best[np.minimum(pieces, _MAX_PIECES - 1), channels]
        if (now - more).max() <= 0:
            break
        pieces[np.argmax(now - more)] += 1
    gains = _GAINS[noise[pieces - 1, :, channels].argmin(-1)]
    return pieces, gains


def widen(model: ModelProto, plan: dict[str, Split]) -> ModelProto:
    """The same function with cut channels."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    tensors = {t.name: t for t in wide.graph.initializer}
    nodes = {node.name: node for node in wide.graph.node}
    for name, split in plan.items():
        source = np.repeat(np.arange(len(split.pieces)), split.pieces)
        place = np.concatenate([np.arange(count) for count in split.pieces])
        gain = split.gains[source].astype(np.float32)
        weight, bias = (tensors[n] for n in nodes[name].input[1:3])
        kernel = numpy_helper.to_array(weight)[source] * gain[:, None, None, None]
        offset = numpy_helper.to_array(bias)[source] * gain - (place * split.ceiling)
        _set(weight, kernel)
        _set(bias, offset)
        reader = tensors[nodes[split.reader].input[1]]
        _set(reader, numpy_helper.to_array(reader)[:, source] / gain[:, None, None])
    del wide.graph.value_info[:]
    onnx.checker.check_model(wide, full_check=True)
    return wide


def _pair(net: Net, conv: NodeProto) -> tuple[NodeProto, NodeProto, float] | None:
    """Clip and convolution behind a convolution, and the clip's ceiling, where that is all."""
    if len(conv.input) < 3 or any(name not in net.constants for name in conv.input[1:]):
        return None
    clip = net.only_user(conv.output[0])
    if clip is None or clip.op_type != "Clip" or len(clip.input) < 3:
        return None
    reader = net.only_user(clip.output[0])
    if reader is None or reader.op_type != "Conv" or reader.input[1] not in net.constants:
        return None
    low, high = (net.constants.get(name) for name in clip.input[1:])
    if low is None or high is None or float(low) != 0.0:
        return None
    return clip, reader, float(high)


def _set(tensor: onnx.TensorProto, value: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
