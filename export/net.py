"""An ONNX graph that can be looked up by value name and changed in place."""

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper, shape_inference


class Net:
    """An ONNX graph with its constants, shapes and consumers looked up by value name."""

    def __init__(self, model: ModelProto) -> None:
        self.model = shape_inference.infer_shapes(model, data_prop=True)
        graph = self.model.graph
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in (*graph.value_info, *graph.input, *graph.output)
        }
        self.shapes |= {name: value.shape for name, value in self.constants.items()}
        self.outputs = {v.name for v in graph.output}
        self.reindex()

    def reindex(self) -> None:
        """Look the makers and users of every value up again after a change."""
        self.maker: dict[str, NodeProto] = {}
        self.users: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            self.maker |= dict.fromkeys(node.output, node)
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def only_user(self, name: str) -> NodeProto | None:
        """The one node that reads a value, or None where none, several or an output do."""
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def add_constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer and return its name."""
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        self.constants[name], self.shapes[name] = value, value.shape
        return name

    def redirect(self, old: str, new: str) -> None:
        """Let everything that read `old` read `new`."""
        for node in self.users.get(old, []):
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def replace(self, gone: list[NodeProto], new: list[NodeProto]) -> None:
        """Put `new` where the last of `gone` stood."""
        nodes = list(self.model.graph.node)
        at = max(i for i, node in enumerate(nodes) if any(node is g for g in gone))
        kept = [node for node in nodes[:at] if not any(node is g for g in gone)]
        rest = nodes[at + 1 :]
        del self.model.graph.node[:]
        self.model.graph.node.extend([*kept, *new, *rest])

    def nodes(self, op: str) -> Iterator[NodeProto]:
        """Nodes of one operator, in the graph's order."""
        return (node for node in self.model.graph.node if node.op_type == op)
