"""The session paints codes in order, and says clearly what it cannot do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veilcam.camera import generator as generator_module
from veilcam.camera.errors import ConfigError, GraphError
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import load_bundle
from veilcam.camera.types import Codes, HeadCode


def _head(track_id: int, latent: list[float], num_values: int = 12) -> HeadCode:
    return HeadCode(
        track_id=track_id,
        levels=(0,) * num_values,
        values=np.zeros(num_values, np.float32),
        latent=np.asarray(latent, np.float32),
        center_xy=(1.0, 1.0),
        size_px=8.0,
        roll_deg=0.0,
        skin_bgr=(1.0, 2.0, 3.0),
        hull_xy=np.zeros((3, 2)),
    )


def _codes(*heads: HeadCode) -> Codes:
    return Codes(size_hw=(16, 16), heads=heads)


@pytest.fixture
def generator(flat_bundle: Path) -> Generator:
    return Generator(load_bundle(flat_bundle), threads=1)


def test_no_head_gives_no_patch(generator: Generator) -> None:
    assert generator(_codes()).bgra == ()


def test_patches_come_in_the_order_of_the_heads(generator: Generator) -> None:
    first, second = generator(_codes(_head(0, [0, 0, 0, 0]), _head(1, [1, 2, -1, 0]))).bgra
    assert first.shape == (128, 128, 4)
    assert first[5, 5].tolist() == [100, 120, 140, 255]
    assert second[5, 5].tolist() == [120, 160, 120, 255]


def test_wrong_lengths_are_refused(generator: Generator) -> None:
    with pytest.raises(GraphError, match=r"\(11,\).*wanted \(12,\)"):
        generator(_codes(_head(0, [0, 0, 0, 0], num_values=11)))
    with pytest.raises(GraphError, match=r"\(3,\), wanted"):
        generator(_codes(_head(0, [0, 0, 0])))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latent_that_is_not_finite_is_refused(generator: Generator, bad: float) -> None:
    with pytest.raises(GraphError, match="code or latent is not finite"):
        generator(_codes(_head(0, [0, bad, 0, 0])))


def test_provider_that_is_not_there_is_an_error(flat_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"Tensorrt.* is not there, got .*CPU"):
        Generator(load_bundle(flat_bundle), execution_provider="TensorrtExecutionProvider")


@pytest.mark.parametrize(
    ("settings", "match"), [({"threads": 0}, "threads=0 must be > 0"), ({"threads": -1}, "> 0")]
)
def test_wrong_settings_are_refused(
    flat_bundle: Path, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        Generator(load_bundle(flat_bundle), **settings)


def test_graph_with_other_shapes_is_refused(tmp_path: Path, make_bundle: Any) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "b.veil", size=64))
    with pytest.raises(GraphError, match=r"graph outputs are .*64.* wanted"):
        Generator(bundle)


def test_invisible_patch_is_refused(tmp_path: Path, make_bundle: Any) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "b.veil", alpha=0.0))
    with pytest.raises(GraphError, match="without any opaque pixel"):
        Generator(bundle)


def test_file_that_is_no_graph_is_refused(flat_bundle: Path) -> None:
    bundle = load_bundle(flat_bundle)
    name = "int8.onnx"
    (flat_bundle / name).write_bytes(b"no graph")
    bundle.manifest["files"][name] = generator_hash(b"no graph")
    with pytest.raises(GraphError, match=r"int8.onnx cannot be loaded"):
        Generator(bundle)


def generator_hash(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_spinning_is_off(flat_bundle: Path) -> None:
    session = generator_module.open_graph(
        load_bundle(flat_bundle).graph_bytes("int8"),
        threads=1,
        execution_provider="CPUExecutionProvider",
    )
    options = session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
