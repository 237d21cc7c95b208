"""A bundle small enough for tests: its graph paints one flat colour taken from the latent."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NUM_LATENT = 4
WriteBundle = Callable[..., Path]


def _graph(size: int, alpha: float) -> bytes:
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    colour = np.zeros((NUM_LATENT, 4), np.float32)
    colour[:3, :3] = np.eye(3) * 20
    constants = {
        "colour": colour,
        "base": np.asarray([100, 120, 140, alpha], np.float32),
        "one": np.asarray([1, 1, 1, 4], np.int64),
        "all": np.asarray([1, size, size, 4], np.int64),
        "low": np.asarray(0, np.float32),
        "high": np.asarray(255, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["latent", "colour"], ["a"]),
        helper.make_node("Add", ["a", "base"], ["b"]),
        helper.make_node("Clip", ["b", "low", "high"], ["c"]),
        helper.make_node("Reshape", ["c", "one"], ["d"]),
        helper.make_node("Expand", ["d", "all"], ["e"]),
        helper.make_node("Cast", ["e"], ["bgra"], to=kinds.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "flat",
        [
            helper.make_tensor_value_info("values", kinds.FLOAT, [1, 12]),
            helper.make_tensor_value_info("latent", kinds.FLOAT, [1, NUM_LATENT]),
        ],
        [helper.make_tensor_value_info("bgra", kinds.UINT8, [1, size, size, 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


def write_bundle(folder: Path, *, size: int = 128, alpha: float = 255.0, **changes: Any) -> Path:
    """Write a bundle whose hashes fit; `changes` replace keys of its manifest."""
    from veilcam.camera.manifest import SCHEMA_VERSION, code_spec, io_spec

    folder.mkdir(parents=True)
    for precision in ("fp32", "int8"):
        (folder / f"{precision}.onnx").write_bytes(_graph(size, alpha))
    mean, chol = np.zeros(NUM_LATENT, np.float32), np.eye(NUM_LATENT, dtype=np.float32)
    skin = np.zeros((3, NUM_LATENT + 1), np.float32)
    np.savez(folder / "latents.npz", mean=mean, chol=chol, skin=skin)
    (folder / "model_card.md").write_text("# flat\n")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": "flat",
        "mode": "face",
        "training": None,
        "data": [],
        "code": code_spec(),
        **io_spec(NUM_LATENT),
        "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()},
    } | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def make_bundle() -> WriteBundle:
    """The writer above, for tests that change something."""
    return write_bundle


@pytest.fixture
def flat_bundle(tmp_path: Path) -> Path:
    """A valid bundle."""
    return write_bundle(tmp_path / "flat.veil")
