"""A bundle is written whole or not at all, and loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veilcam.camera.code import dequantize_levels
from veilcam.camera.errors import GraphError, InputError
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import load_bundle
from veilcam.export import bundle as export_bundle
from veilcam.export.bundle import export_generator, write_pins


@pytest.fixture(scope="module")
def exported(
    stand_in: Any, latents: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp("export") / "tiny.veil"
    meta = {
        "seed": 0,
        "data": [{"name": "none", "pictures": 3, "origin": "drawn", "licence": "CC0"}],
    }
    export_generator(stand_in, meta, latents, target, name="tiny")
    return target


def test_exported_bundle_loads_and_paints(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.manifest["inputs"]["values"] == {"shape": [1, 12], "dtype": "float32"}
    assert bundle.manifest["training"] is None
    assert bundle.manifest["metrics"]["parity"]["psnr_db"] >= 35
    assert not bundle.is_pinned
    values = dequantize_levels(np.ones(12, np.int64))
    pictures = [
        Generator(bundle, precision=precision, threads=1).paint(values, bundle.mean)
        for precision in ("int8", "fp32")
    ]
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 8


def test_nothing_else_is_left_in_the_folder(exported: Path) -> None:
    assert [p.name for p in exported.parent.iterdir()] == ["tiny.veil"]


def test_failed_export_leaves_the_old_bundle(
    exported: Path, stand_in: Any, latents: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (exported / "manifest.json").read_bytes()

    def fail(*_args: object, **_kwargs: object) -> None:
        raise GraphError("planted")

    monkeypatch.setattr(export_bundle, "load_bundle", fail)
    with pytest.raises(GraphError, match="planted"):
        export_generator(stand_in, {}, latents, exported)
    assert (exported / "manifest.json").read_bytes() == before
    assert [p.name for p in exported.parent.iterdir()] == ["tiny.veil"]


@pytest.mark.parametrize(("name", "match"), [("b", "must end in .veil"), ("x.veil", "no bundle")])
def test_wrong_target_is_refused(
    tmp_path: Path, name: str, match: str, latents: dict[str, np.ndarray], stand_in: Any
) -> None:
    (tmp_path / "x.veil").mkdir()
    with pytest.raises(InputError, match=match):
        export_generator(stand_in, {}, latents, tmp_path / name)


def test_pins_list_every_file(exported: Path) -> None:
    pins = write_pins(exported.parent)
    listed = json.loads((exported / "manifest.json").read_text())["files"]
    assert set(pins["tiny.veil"]) == set(listed) | {"manifest.json"}
    assert listed.items() <= pins["tiny.veil"].items()
    (exported.parent / "pins.json").unlink()
