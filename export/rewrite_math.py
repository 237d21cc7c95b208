"""Rewrites of single operators into ones that run faster and compute the same."""

import numpy as np
from onnx import NodeProto, helper

from veilcam.export.net import Net


def fold_gemm_bias(net: Net) -> bool:
    """A constant row added behind a Gemm without bias becomes the Gemm's bias."""
    for gemm in net.nodes("Gemm"):
        if len(gemm.input) > 2 and np.any(net.constants.get(gemm.input[2], 1) != 0):
            continue
        user = net.only_user(gemm.output[0])
        if user is None or user.op_type != "Add":
            continue
        other = [n for n in user.input if n != gemm.output[0]]
        bias = net.constants.get(other[0]) if len(other) == 1 else None
        if bias is None or bias.size != net.shapes[gemm.output[0]][-1]:
            continue
        name = net.add_constant(f"{gemm.output[0]}_bias", bias.reshape(-1))
        merged = NodeProto()
        merged.CopyFrom(gemm)
        del merged.input[2:], merged.output[:]
        merged.input.append(name)
        merged.output.append(user.output[0])
        net.replace([gemm, user], [merged])
        return True
    return False


def einsum_to_matmul(net: Net) -> bool:
    """Einsum that is a matrix product, with at most one batch axis of size 1, becomes MatMul."""
    for node in net.nodes("Einsum"):
        equation = helper.get_node_attr_value(node, "equation").decode().replace(" ", "")
        sides, _, result = equation.partition("->")
        left, _, right = sides.partition(",")
        shape = net.shapes[node.input[1]] if len(node.input) == 2 else ()
        batch = right[:-2]
        is_product = len(right) >= 2 and left[-1:] == right[-2] and result == left[:-1] + right[-1]
        if not is_product or batch != left[: len(batch)] or any(n != 1 for n in shape[:-2]):
            continue
        matmul = helper.make_node("MatMul", list(node.input), list(node.output), node.name)
        net.replace([node], [matmul])
        return True
    return False


def fuse_tanh_sigmoid(net: Net) -> bool:
    """Tanh of the first channels beside sigmoid of the last becomes one scaled tanh of all.

    sigmoid(x) = tanh(x / 2) / 2 + 1 / 2. Cutting and joining 4 channels costs more than the math.
    """
    for concat in net.nodes("Concat"):
        parts = [net.maker.get(name) for name in concat.input]
        if [p.op_type if p else "" for p in parts] != ["Tanh", "Sigmoid"]:
            continue
        slices = [net.maker.get(p.input[0]) for p in parts if p]
        if [s.op_type if s else "" for s in slices] != ["Slice", "Slice"]:
            continue
        source = {s.input[0] for s in slices if s}
        shape = net.shapes[next(iter(source))]
        num_tanh, num_sigmoid = (net.shapes[name][-1] for name in concat.input)
        ends = [net.shapes[concat.output[0]] == shape, num_tanh + num_sigmoid == shape[-1]]
        if len(source) != 1 or len(shape) != 4 or not all(ends) or not _starts_fit(net, slices):
            continue
        gone = [node for node in (*slices, *parts, concat) if node is not None]
        net.replace(gone, _scaled_tanh(net, source.pop(), concat.output[0], num_tanh))
        return True
    return False


def _starts_fit(net: Net, slices: list[NodeProto | None]) -> bool:
    """True where the first slice starts at 0 and the second where the first ends."""
    firsts = [net.constants.get(s.input[1]) for s in slices if s is not None]
    if any(first is None for first in firsts):
        return False
    last = [int(first[-1]) for first in firsts if first is not None]
    width = net.shapes[slices[0].output[0]][-1] if slices[0] is not None else -1
    return last == [0, width]


def _scaled_tanh(net: Net, source: str, target: str, num_tanh: int) -> list[NodeProto]:
    n, h, w, c = net.shapes[source]
    scale = np.full(c, 0.5, np.float32)
    scale[:num_tanh] = 1
    shift = np.where(np.arange(c) < num_tanh, 0, 0.5).astype(np.float32)
    rows = net.add_constant(f"{target}_rows", np.asarray([n, h, w * c], np.int64))
    back = net.add_constant(f"{target}_back", np.asarray([n, h, w, c], np.int64))
    factor = net.add_constant(f"{target}_scale", np.tile(scale, w))
    offset = net.add_constant(f"{target}_shift", np.tile(shift, w))
    steps = [
        ("Reshape", rows),
        ("Mul", factor),
        ("Tanh", None),
        ("Mul", factor),
        ("Add", offset),
        ("Reshape", back),
    ]
    nodes, value = [], source
    for i, (op, constant) in enumerate(steps):
        out = target if i == len(steps) - 1 else f"{target}_step{i}"
        inputs = [value] if constant is None else [value, constant]
        nodes.append(helper.make_node(op, inputs, [out], f"{target}_{op.lower()}{i}"))
        value = out
    return nodes
