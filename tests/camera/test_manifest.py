"""A bundle that is not exactly what its manifest says is refused before anything is loaded."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veilcam.camera import manifest as manifest_module
from veilcam.camera.errors import GraphError
from veilcam.camera.manifest import io_spec, load_bundle

LATENT = {"latent": io_spec(4)["inputs"]["latent"]}


def test_valid_bundle_loads(flat_bundle: Path) -> None:
    bundle = load_bundle(flat_bundle)
    assert bundle.mean.shape == (4,)
    assert bundle.chol.shape == (4, 4)
    assert not bundle.is_pinned
    assert bundle.sha256 == hashlib.sha256((flat_bundle / "manifest.json").read_bytes()).hexdigest()
    assert set(bundle.describe()) == {"mode", "name", "code", "training", "data", "files"}


@pytest.mark.parametrize("name", ["fp32.onnx", "int8.onnx", "latents.npz", "model_card.md"])
def test_changed_file_is_refused(flat_bundle: Path, name: str) -> None:
    data = bytearray((flat_bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (flat_bundle / name).write_bytes(data)
    with pytest.raises(GraphError, match=rf"{name} was changed: sha256 \w+, wanted \w+; fetch"):
        load_bundle(flat_bundle)


@pytest.mark.parametrize("name", ["fp32.onnx", "manifest.json"])
def test_missing_file_is_refused(flat_bundle: Path, name: str) -> None:
    (flat_bundle / name).unlink()
    with pytest.raises(GraphError, match=rf"{name} cannot be read"):
        load_bundle(flat_bundle)


def test_graph_changed_after_loading_is_refused(flat_bundle: Path) -> None:
    bundle = load_bundle(flat_bundle)
    (flat_bundle / "int8.onnx").write_bytes(b"other")
    with pytest.raises(GraphError, match=r"int8.onnx was changed"):
        bundle.graph_bytes("int8")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema_version": 2}, "schema_version 2, wanted 1"),
        ({"schema_version": "1"}, "schema_version '1', wanted 1"),
        ({"mode": "scene"}, "mode 'scene', wanted 'face'"),
        ({"files": {}}, "files lists"),
        ({"files": None}, "files lists None"),
        ({"code": {"fields": [], "bits_per_frame": 0}}, "code is"),
        ({"inputs": {}}, "no latent shape"),
        ({"outputs": {"bgra": {"shape": [1, 64, 64, 4], "dtype": "uint8"}}}, "outputs is"),
        ({"inputs": {"levels": {"shape": [1, 12], "dtype": "int64"}, **LATENT}}, "inputs is"),
        ({"inputs": io_spec(5)["inputs"]}, "shapes"),
    ],
)
def test_wrong_manifest_is_refused(
    tmp_path: Path, make_bundle: Any, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(GraphError, match=match):
        load_bundle(make_bundle(tmp_path / "b.veil", **changes))


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_manifest_that_is_no_object_is_refused(flat_bundle: Path, text: str) -> None:
    (flat_bundle / "manifest.json").write_text(text)
    with pytest.raises(GraphError, match=r"manifest.json"):
        load_bundle(flat_bundle)


def test_file_outside_the_bundle_is_refused(flat_bundle: Path) -> None:
    path = flat_bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(GraphError, match="no plain file name"):
        load_bundle(flat_bundle)


def test_latents_that_are_not_finite_are_refused(flat_bundle: Path) -> None:
    target = flat_bundle / "latents.npz"
    np.savez(
        target,
        mean=np.full(4, np.nan, np.float32),
        chol=np.eye(4, dtype=np.float32),
        skin=np.zeros((3, 5), np.float32),
    )
    path = flat_bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][target.name] = hashlib.sha256(target.read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest))
    with pytest.raises(GraphError, match="not finite"):
        load_bundle(flat_bundle)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"is not a folder, wanted NAME.veil"):
        load_bundle(tmp_path / "none.veil")


def test_packaged_bundle_must_match_its_pins(
    tmp_path: Path, flat_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    shutil.copytree(flat_bundle, assets / "face.veil")
    monkeypatch.setattr(manifest_module, "default_bundle_path", lambda: assets / "face.veil")
    pins = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in flat_bundle.iterdir()}
    (assets / "pins.json").write_text(json.dumps({"face.veil": pins}))
    assert load_bundle().is_pinned
    # A forged bundle that is consistent in itself is still not the pinned one.
    manifest = json.loads((assets / "face.veil" / "manifest.json").read_text())
    (assets / "face.veil" / "manifest.json").write_text(json.dumps(manifest | {"name": "forged"}))
    with pytest.raises(GraphError, match=r"manifest.json was changed"):
        load_bundle()
    (assets / "pins.json").write_text("{}")
    with pytest.raises(GraphError, match="not pinned"):
        load_bundle()


@pytest.mark.parametrize("mode", ["face", "scene", "frame"])
def test_the_shipped_bundle_of_each_mode_loads(mode: str) -> None:
    """Also after a change of the code's fields or claims: then it has to be exported again."""
    assert load_bundle(mode=mode).sha256
