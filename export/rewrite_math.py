"""Rewrites of single operators into ones that run faster and compute the same."""

import numpy as np
from onnx import NodeProto, helper

from veilcam.export.net import Net

VIEW_OPS = ("Transpose", "Reshape")


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
        for attribute in merged.attribute:
            if attribute.name == "beta":  # the tracer writes 0 where there was no bias
                attribute.f = 1.0
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


def fuse_clip(net: Net) -> bool:
    """Max(x, 0) becomes Relu, Min(Max(x, low), high) becomes Clip: those melt into a Conv."""
    for upper in net.nodes("Min"):
        high = _scalar_operand(net, upper)
        lower = None if high is None else net.maker.get(high[0])
        low = _scalar_operand(net, lower) if lower is not None and lower.op_type == "Max" else None
        if high is None or low is None or net.only_user(high[0]) is not upper or lower is None:
            continue
        bounds = [
            net.add_constant(f"{upper.output[0]}_{i}", np.asarray(v, np.float32))
            for i, v in enumerate((low[1], high[1]))
        ]
        clip = helper.make_node("Clip", [low[0], *bounds], list(upper.output), f"{upper.name}_clip")
        net.replace([lower, upper], [clip])
        return True
    for lower in net.nodes("Max"):
        low = _scalar_operand(net, lower)
        user = net.only_user(lower.output[0])
        if low is None or low[1] != 0 or (user is not None and user.op_type == "Min"):
            continue
        relu = helper.make_node("Relu", [low[0]], list(lower.output), f"{lower.name}_relu")
        net.replace([lower], [relu])
        return True
    return False


def _scalar_operand(net: Net, node: NodeProto) -> tuple[str, float] | None:
    """(value, number) of a two-input node that has one constant number."""
    for value, other in (node.input, reversed(node.input)) if len(node.input) == 2 else ():
        constant = net.constants.get(other)
        if constant is not None and constant.size == 1 and value not in net.constants:
            return value, float(constant.reshape(-1)[0])
    return None


def hoist_activation(net: Net) -> bool:
    """Relu or Clip behind a Transpose or Reshape goes before it, next to its Conv."""
    for node in net.model.graph.node:
        view = net.maker.get(node.input[0]) if node.op_type in ("Relu", "Clip") else None
        if view is None or view.op_type not in VIEW_OPS or net.only_user(view.output[0]) is None:
            continue
        middle, target = view.output[0], node.output[0]
        first, second = NodeProto(), NodeProto()
        first.CopyFrom(node)
        second.CopyFrom(view)
        first.input[0], first.output[0] = view.input[0], f"{middle}_early"
        second.input[0], second.output[0] = f"{middle}_early", target
        net.replace([view, node], [first, second])
        return True
    return False


def cancel_views(net: Net) -> bool:
    """A chain of Transpose and Reshape that leaves every number in its place goes."""
    for last in net.model.graph.node:
        if last.op_type not in VIEW_OPS or last.output[0] in net.outputs:
            continue
        chain = [last]
        while (maker := net.maker.get(chain[0].input[0])) is not None:
            if maker.op_type not in VIEW_OPS or net.only_user(maker.output[0]) is None:
                break
            chain.insert(0, maker)
        for start in range(len(chain)):
            source, part = chain[start].input[0], chain[start:]
            if source in net.shapes and _moves_nothing(net, source, part):
                net.redirect(last.output[0], source)
                net.replace(part, [])
                return True
    return False


def _moves_nothing(net: Net, source: str, chain: list[NodeProto]) -> bool:
    shape = net.shapes[source]
    before = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    after = before
    for node in chain:
        if node.op_type == "Transpose":
            after = after.transpose(helper.get_node_attr_value(node, "perm"))
        else:
            after = after.reshape(net.shapes[node.output[0]])
    return after.shape == before.shape and bool((after == before).all())
