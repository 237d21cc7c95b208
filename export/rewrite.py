"""Rewrites that turn the traced NHWC graph into clean convolutions that quantize and fuse.

Every rewrite keeps the function the graph computes; `export.parity` checks the result.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from veilcam.export.net import Net
from veilcam.export.rewrite_math import (
    VIEW_OPS,
    cancel_views,
    einsum_to_matmul,
    fold_gemm_bias,
    fuse_clip,
    hoist_activation,
)


def fold_bias(net: Net) -> bool:
    """A per-channel constant added behind a Conv becomes the Conv's bias."""
    for conv in net.nodes("Conv"):
        if len(conv.input) > 2 or conv.input[1] not in net.constants:
            continue
        num_out = net.constants[conv.input[1]].shape[0]
        name = conv.output[0]
        user = net.only_user(name)
        while user is not None and user.op_type in VIEW_OPS:
            name = user.output[0]
            user = net.only_user(name)
        if user is None or user.op_type != "Add":
            continue
        other = [n for n in user.input if n != name]
        bias = net.constants.get(other[0]) if len(other) == 1 else None
        if bias is None or bias.size != num_out or bias.shape[-1:] != (num_out,):
            continue
        if net.shapes[name][-1:] != (num_out,):
            continue
        conv.input.append(net.add_constant(f"{conv.name}_bias", bias.reshape(-1)))
        net.redirect(user.output[0], name)
        net.replace([user], [])
        return True
    return False


def merge_reshapes(net: Net) -> bool:
    """Reshape after Reshape becomes one; a Reshape to the same shape goes."""
    for node in net.nodes("Reshape"):
        source, target = node.input[0], node.output[0]
        before = net.maker.get(source)
        if before is not None and before.op_type == "Reshape":
            shape = np.asarray(net.shapes[target], np.int64)
            node.input[0] = before.input[0]
            node.input[1] = net.add_constant(f"{target}_shape", shape)
            if net.only_user(source) is node:
                net.replace([before], [])
            return True
        if net.shapes[source] == net.shapes[target] and target not in net.outputs:
            net.redirect(target, source)
            net.replace([node], [])
            return True
    return False


def _repeat_of(net: Net, expand: NodeProto) -> tuple[str, str, int, list[NodeProto]] | None:
    """(input, output, axis, nodes) where Reshape-Expand-Reshape doubles one axis of NHWC."""
    before, after = net.maker.get(expand.input[0]), net.only_user(expand.output[0])
    if before is None or after is None or {before.op_type, after.op_type} != {"Reshape"}:
        return None
    source, target = before.input[0], after.output[0]
    shape, wide = net.shapes[source], net.shapes[expand.output[0]]
    for axis in (1, 2):
        doubled = (*shape[: axis + 1], 2, *shape[axis + 1 :])
        if len(shape) == 4 and wide == doubled and len(net.shapes[target]) in (4, 5):
            return source, target, axis, [before, expand, after]
    return None


def fuse_upsample(net: Net) -> bool:
    """Rows repeated, then columns repeated (NHWC) becomes one nearest Resize in NCHW."""
    for expand in net.nodes("Expand"):
        first = _repeat_of(net, expand)
        if first is None or first[2] != 1:
            continue
        # Between the two repeats the reshapes were merged into one.
        middle = first[3][2]
        second_expand = net.only_user(middle.output[0])
        if second_expand is None or second_expand.op_type != "Expand":
            continue
        last = net.only_user(second_expand.output[0])
        n, h, w, c = net.shapes[first[0]]
        if net.shapes[second_expand.output[0]] != (n, 2 * h, w, 2, c):
            continue
        if last is None or net.shapes[last.output[0]] != (n, 2 * h, 2 * w, c):
            continue
        new = _resize_nodes(net, first[0], last.output[0])
        net.replace([*first[3], second_expand, last], new)
        return True
    return False


def _resize_nodes(net: Net, source: str, target: str) -> list[NodeProto]:
    scales = net.add_constant(f"{target}_scales", np.asarray([1, 1, 2, 2], np.float32))
    names = [source, f"{target}_nchw", f"{target}_up", target]
    return [
        helper.make_node("Transpose", names[:1], names[1:2], f"{target}_t0", perm=[0, 3, 1, 2]),
        helper.make_node(
            "Resize",
            [names[1], "", scales],
            names[2:3],
            f"{target}_resize",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Transpose", names[2:3], names[3:], f"{target}_t1", perm=[0, 2, 3, 1]),
    ]


_REWRITES: tuple[Callable[[Net], bool], ...] = (
    fold_bias,
    merge_reshapes,
    fuse_upsample,
    fold_gemm_bias,
    einsum_to_matmul,
    fuse_clip,
    hoist_activation,
    cancel_views,
)


def rewrite(model: ModelProto) -> ModelProto:
    """The same graph after all rewrites, applied until none fits any more."""
    while True:
        net = Net(model)
        if not any(step(net) for step in _REWRITES):
            return net.model
        model = net.model
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
