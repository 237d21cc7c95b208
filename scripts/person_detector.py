"""Cut YOLOX-nano down to people: only the person class, pictures of 416x256. Weights unchanged.

python scripts/person_detector.py yolox_nano_416_coco.onnx -o camera/assets/yolox.onnx
"""

from pathlib import Path

import click
import numpy as np
import onnx
from onnx import numpy_helper

INPUT_HW = (256, 416)
STRIDES = (8, 16, 32)
NUM_CLASSES = 80


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(source: Path, out: Path) -> None:
    """Write the cut graph of SOURCE to OUT: (1, 3, 256, 416) -> (1, 2184, 6)."""
    model = onnx.load(str(source))
    graph = model.graph
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if "cls_preds" in tensor.name:
            value = value[:1]  # person is the first class
        elif value.dtype == np.int64 and value.tolist()[:2] == [1, NUM_CLASSES + 5]:
            value = np.array([1, 6, -1], np.int64)
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            shape = numpy_helper.to_array(attribute.t) if attribute.HasField("t") else None
            if shape is not None and shape.tolist()[:2] == [1, NUM_CLASSES + 5]:
                attribute.t.CopyFrom(numpy_helper.from_array(np.array([1, 6, -1], np.int64)))
    del graph.value_info[:]
    cells = sum((INPUT_HW[0] // stride) * (INPUT_HW[1] // stride) for stride in STRIDES)
    for value, shape in ((graph.input[0], (1, 3, *INPUT_HW)), (graph.output[0], (1, cells, 6))):
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    onnx.checker.check_model(model, full_check=True)
    out.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
