"""Substitutes to search by: people gone, hashes far away on request, content kept, nothing half."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilcam.camera.cli import call
from veilcam.camera.errors import SinkError, SourceError
from veilcam.camera.search import SearchOptions, make_queries
from veilcam.camera.search_edits import apply_edit, draw_edit
from veilcam.camera.search_hashes import NAMES, Reference
from veilcam.camera.search_match import escape
from veilcam.camera.source import demo_clip

pytest.importorskip("imagehash")
pytest.importorskip("pdqhash")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "clip.png"
    capture = cv2.VideoCapture(str(demo_clip()))
    is_read, frame = capture.read()
    assert is_read
    cv2.imwrite(str(path), frame)
    return path


def test_hashes_leave_the_original_and_the_head_is_replaced(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "query.png"
    options = SearchOptions(defeats_matching=True, distance=0.2)
    report = make_queries(picture, out, options)
    assert report["heads_replaced"] >= 1
    reference = Reference(cv2.imread(str(picture)))
    found = reference.distances(cv2.imread(str(out)))
    wanted = reference.wanted(0.2)
    for name in NAMES:  # of what was written, not of what was meant to be
        assert found[name] >= wanted[name]
        assert report["variants"][0]["hash_distances"][name]["after"] == found[name]


def test_the_hash_matcher_knows_a_copy_and_its_mirror_again(picture: Path) -> None:
    original = cv2.imread(str(picture))
    reference = Reference(original)
    small = cv2.resize(original, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for copy in (original, small, original[:, ::-1]):
        found = reference.distances(np.ascontiguousarray(copy))
        assert all(found[name] <= 0.16 * reference.num_bits[name] for name in NAMES)


def test_variants_get_numbers_and_differ(picture: Path, tmp_path: Path) -> None:
    report = make_queries(picture, tmp_path / "q.jpg", SearchOptions(num=2))
    names = [Path(made["out"]).name for made in report["variants"]]
    assert names == ["q-1.jpg", "q-2.jpg"]
    first, second = (cv2.imread(str(tmp_path / name)) for name in names)
    assert not np.array_equal(first, second)
    assert sorted(p.name for p in tmp_path.iterdir()) == names


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1, allow_subnormal=False))
def test_edits_keep_size_and_type(seed: int, level: float) -> None:
    random = np.random.default_rng(seed)
    bgr = random.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    edited = apply_edit(bgr, draw_edit(level, random))
    assert edited.shape == bgr.shape
    assert edited.dtype == np.uint8
    if level == 0:
        np.testing.assert_array_equal(edited, bgr)


def test_nothing_is_written_where_no_edit_goes_far_enough(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veilcam.camera.search_match.LEVELS", (0.0,))  # unedited only
    options = SearchOptions(defeats_matching=True, distance=0.4)
    with pytest.raises(SourceError, match="nothing was written"):
        make_queries(picture, tmp_path / "q.png", options)
    assert not list(tmp_path.iterdir())


def test_an_edit_that_loses_what_the_picture_shows_is_not_taken(picture: Path) -> None:
    bgr = cv2.imread(str(picture))
    seen: list[int] = []

    def features(pixels: np.ndarray) -> np.ndarray:
        """Alike on the small copy; of the full one, nothing is left after the first look."""
        if max(pixels.shape) <= 256:
            return np.array([1.0, 0.0])
        seen.append(1)
        return np.array([1.0, 0.0] if len(seen) == 1 else [0.0, 1.0])

    with pytest.raises(SourceError, match="nothing was written"):
        escape(bgr, Reference(bgr), 0.1, features=features, as_written=lambda pixels: pixels)
    assert len(seen) > 1


def test_the_original_is_never_overwritten(picture: Path) -> None:
    before = picture.read_bytes()
    with pytest.raises(SinkError, match="the original itself"):
        make_queries(picture, picture, SearchOptions())
    assert picture.read_bytes() == before


@pytest.mark.parametrize("name", ["missing.png", "notes.txt"])
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert call(["search", str(tmp_path / name), "-o", str(tmp_path / "q.png")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("veilcam: ")
    assert not (tmp_path / "q.png").exists()
