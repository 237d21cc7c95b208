"""`frame` mode on single pictures, with a fake painter: album, social and `protect`."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import veilcam.camera
from tests.camera import frame_parts, sentinel
from tests.camera.scene_parts import FACING, make_cast
from tests.camera.test_frame import ROOM, hits, in_a_street
from tests.camera.test_scene import wandering
from veilcam.camera import album, cli, credentials, frame_still, social
from veilcam.camera.cast import Cast
from veilcam.camera.errors import ConfigError
from veilcam.camera.frame_loop import FrameLoop
from veilcam.camera.layout_tokens import Casting
from veilcam.camera.manifest import load_bundle
from veilcam.camera.strength import Strength


class FakeModels:
    """Stands for painter and actors; the bundle is that of another mode, for its hash alone."""

    def __init__(self, bundle: Path | None, profile: Any = None) -> None:
        self.bundle, self.facing = load_bundle(), FACING

    def loop(self, source: Any, sink: Any, *, analyse: Any, encoder: Any) -> FrameLoop:
        return FrameLoop(
            source, sink, analyse=analyse, encoder=encoder, paint_scene=frame_parts.paint_scene,
            casting=Casting(make_cast()), paint_actors=frame_parts.paint_actors,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_still, "FrameModels", FakeModels)
    monkeypatch.setattr(album, "load_bundle", lambda *_args, **_more: load_bundle())


def test_no_pixel_of_a_picture_comes_out_and_each_has_new_answers() -> None:
    protect = frame_still.FrameProtector(strength=Strength.FAITHFUL)
    pictures = [in_a_street(bgr) for bgr in wandering()[:40]]
    made = [protect(bgr) for bgr in pictures]
    assert all(safe.reason == "" and safe.bgr.shape == pictures[0].shape for safe in made)
    assert hits(made) == 0
    looker = sentinel.Looker()  # the control: the originals are full of it
    looker.look(np.ascontiguousarray(pictures[0][ROOM]), 0)
    assert sum(looker.hits.values()) > 0
    first, again = (protect(pictures[0]).bgr for _ in range(2))
    assert not np.array_equal(first, again)


def test_a_part_that_fails_gives_a_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_parts, "paint_scene", lambda _values: 1 / 0)
    safe = frame_still.FrameProtector()(np.full((64, 96, 3), 200, np.uint8))
    assert safe.reason.startswith("generate failed")
    assert (safe.bgr == safe.bgr[0, 0]).all()


def test_album_social_and_protect_paint_the_whole_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "in"
    folder.mkdir()
    raw = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    cv2.imwrite(str(folder / "a.png"), raw)
    command = ["album", str(folder), str(tmp_path / "out"), "--mode", "frame", "--jobs", "1"]
    assert cli.call([*command, "--json"]) == 0
    assert '"mode": "frame"' in capsys.readouterr().out
    twin = cv2.imread(str(tmp_path / "out" / "a.png"))
    assert twin.shape == raw.shape
    assert (twin == raw).mean() < 0.05
    assert cli.call([*command[:3], "--jobs", "1", "--json"]) == 0  # another mode: made anew
    assert '"written": 1, "kept": 0' in capsys.readouterr().out
    options = social.SocialOptions(mode="frame", has_credentials=False)
    report = social.make_substitute(folder / "a.png", tmp_path / "s.jpg", options)
    assert report["source_type"] == credentials.SOURCE_TYPES["frame"]
    assert credentials.SOURCE_TYPES["frame"].encode() in (tmp_path / "s.jpg").read_bytes()
    assert veilcam.camera.protect(raw, mode="frame").reason == ""


def test_words_consistency_and_search_do_not_go_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="words cast heads"):
        veilcam.camera.protect(np.zeros((64, 64, 3), np.uint8), mode="frame", prompt="an old man")
    with pytest.raises(ConfigError, match="words cast heads"):
        album.run_album(
            tmp_path, tmp_path / "out", album.AlbumOptions(mode="frame", cast=Cast(others="a man")),
            print,
        )  # fmt: skip
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.zeros((64, 64, 3), np.uint8))
    place = [str(tmp_path / "in"), str(tmp_path / "out")]
    assert cli.call(["album", *place, "--mode", "frame", "--consistent"]) == 2
    assert "--consistent keeps faces" in capsys.readouterr().err
    out = str(tmp_path / "q.jpg")
    assert cli.call(["search", f"{place[0]}/a.png", "-o", out, "--mode", "frame"]) == 2
    assert "leaves nothing to search by" in capsys.readouterr().err
