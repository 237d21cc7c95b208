"""The invisible mark: it outlives saving and resizing, and is not seen where it is not."""

import json
import multiprocessing
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8

from veilcam.camera import cli, watermark
from veilcam.camera.clip import ClipSource
from veilcam.camera.errors import SourceError
from veilcam.camera.source import demo_clip

Picture = UInt8[np.ndarray, "h w 3"]
has_library = pytest.mark.skipif(
    find_spec("blind_watermark") is None, reason="needs the extra 'watermark'"
)


def demo_picture() -> Picture:
    source = ClipSource(demo_clip())
    frame = source.read()
    source.close()
    assert frame is not None
    return frame.bgr


@has_library
def test_a_mark_outlives_jpeg_and_half_the_size_and_is_not_read_from_nothing() -> None:
    bgr = demo_picture()
    marked = watermark.mark(bgr)
    assert cv2.PSNR(bgr, marked) > 34
    saved = cv2.imdecode(cv2.imencode(".jpg", marked, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
    half = cv2.resize(marked, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert watermark.read(np.asarray(saved, np.uint8))["is_found"]
    assert watermark.read(np.asarray(half, np.uint8))["is_found"]  # 640 is a size of ours
    assert not watermark.read(bgr)["is_found"]
    with pytest.raises(SourceError, match="too few for a watermark"):
        watermark.mark(bgr[:100, :100])


@has_library
def test_the_library_does_not_choose_how_processes_start() -> None:
    for name in [name for name in sys.modules if name.startswith("blind_watermark")]:
        del sys.modules[name]
    before = multiprocessing.get_start_method(allow_none=True)
    watermark.load_library()
    assert multiprocessing.get_start_method(allow_none=True) == before


@has_library
def test_social_marks_and_verify_finds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("c2pa")
    cv2.imwrite(str(tmp_path / "in.png"), demo_picture())
    for options, is_found in ((["--watermark"], True), ([], False)):
        out = str(tmp_path / "out.jpg")
        assert cli.call(["social", str(tmp_path / "in.png"), "-o", out, *options, "--json"]) == 0
        made = json.loads(capsys.readouterr().out)  # the library's greeting is not in it
        assert made["watermark"] is is_found
        assert cli.call(["verify", out, "--watermark", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["watermark"]["is_found"] is is_found


def test_without_the_library_one_line_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "blind_watermark", None)
    cv2.imwrite(str(tmp_path / "in.png"), demo_picture())
    out = tmp_path / "out.jpg"
    assert cli.call(["social", str(tmp_path / "in.png"), "-o", str(out), "--watermark"]) == 2
    assert "run ./scripts/setup watermark" in capsys.readouterr().err
    assert not out.exists()
