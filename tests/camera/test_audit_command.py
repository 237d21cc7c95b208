import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from veilcam.camera.audit import AuditOptions, AuditResult
from veilcam.camera.audit_command import audit, to_text, write_text
from veilcam.camera.audit_faces import FaceFinder
from veilcam.camera.audit_html import render
from veilcam.camera.audit_people import Picture, pad, read_people, split_people
from veilcam.camera.audit_protect import Protected, copy_of, plant_leak, protect_like, thumbnail
from veilcam.camera.audit_shots import Instruments, load_mesh
from veilcam.camera.cli import call
from veilcam.camera.errors import ConfigError, InputError, SinkError
from veilcam.camera.manifest import default_bundle_path

HULL = np.array([[20.0, 20], [60, 20], [60, 70], [20, 70]])


def noise(size: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["blur", "pixelate", "solid"])
def test_peers_change_the_hull_and_nothing_else(name: str) -> None:
    before = noise()
    after = protect_like(name, before, (HULL,))
    changed = (before != after).any(axis=2)
    assert changed[30:60, 30:50].mean() > 0.95
    assert not changed[:, 66:].any()
    assert not changed[:16].any()


def test_no_head_leaves_a_peer_nothing_to_do() -> None:
    assert (protect_like("solid", noise(), ()) == noise()).all()


def test_a_planted_leak_lets_the_original_through() -> None:
    light, dark = np.full((96, 96, 3), 200, np.uint8), np.zeros((96, 96, 3), np.uint8)
    assert plant_leak(light, dark).mean() == pytest.approx(100, abs=2)


def test_thumbnail_and_copy_keep_their_sizes() -> None:
    assert thumbnail(noise(), (10.0, 10.0, 40.0, 50.0)).shape == (144,)
    assert copy_of(noise()).shape == (96, 96, 3)


def test_tight_crops_get_a_border_and_frames_do_not() -> None:
    assert pad(noise(128)).shape == (256, 256, 3)
    assert (pad(noise(128))[64:192, 64:192] == noise(128)).all()
    assert pad(noise(300)).shape == (300, 300, 3)


def write_people(folder: Path, counts: dict[str, int]) -> Path:
    folder.mkdir()
    lines = ["file,person,colour"]
    for person, count in counts.items():
        for number in range(count):
            cv2.imwrite(str(folder / f"{person}_{number}.png"), noise())
            lines.append(f"{person}_{number}.png,{person},1")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_people_are_read_by_person_and_never_on_both_sides(tmp_path: Path) -> None:
    pictures = read_people(write_people(tmp_path / "p", {"a": 1, "b": 3, "c": 1, "d": 1, "e": 2}))
    assert repr(pictures[0]) == "Picture(person and pixels withheld)"
    split = split_people(pictures, num_attacked=2, num_others=10)
    assert {p.person for p in split.attacked} == {"b", "e"}
    assert [p.number for p in split.attacked if p.person == "b"] == [0, 1]
    assert {p.person for p in split.others} == {"a", "c", "d"}


def test_attackers_may_learn_on_people_of_another_folder(tmp_path: Path) -> None:
    attacked = read_people(write_people(tmp_path / "p", {"a": 1, "b": 3}))
    others = read_people(write_people(tmp_path / "q", {"c": 2, "d": 1}))
    split = split_people(attacked, num_attacked=9, num_others=9, learn_on=others)
    assert {p.person for p in split.attacked} == {"a", "b"}
    assert sorted(p.person for p in split.others) == ["c", "d"]
    with pytest.raises(InputError, match="among those attacked"):
        split_people(attacked, num_attacked=9, num_others=9, learn_on=attacked[:1])


def test_black_and_white_is_left_out(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "p", {"a": 1, "b": 1})
    text = (folder / "manifest.csv").read_text().replace("b_0.png,b,1", "b_0.png,b,0")
    (folder / "manifest.csv").write_text(text)
    assert [p.person for p in read_people(folder)] == ["a"]


def test_a_folder_without_a_manifest_has_one_person_a_file(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), noise())
    assert [p.person for p in read_people(tmp_path)] == ["x"]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_people_say_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="wanted"):
        read_people(tmp_path / name)


def test_a_report_is_whole_or_not_there(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.html", "text")
    assert (tmp_path / "new" / "a.html").read_text() == "text"
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="choose another"):
        write_text(tmp_path / "file" / "a.html", "text")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.html"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["audit", "missing.veil"], "missing.veil"),
        (["audit", "missing.veil", "-o", "report.pdf"], ".html"),
        (["audit"], "BUNDLE"),
    ],
)
def test_bad_input_is_said_with_exit_2(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert json.loads(captured.out)["exit_code"] == 2


def row(**changes: object) -> dict[str, object]:
    return {
        "name": "reid", "recognizer": "one", "metric": "rank1", "value": 0.5, "low": 0.4,
        "high": 0.6, "control_positive": 1.0, "control_negative": 0.0, "protection": "veilcam",
        "gallery": "same", "chance": 0.01, "n": 100, "decides": True, "p_value": 1e-9,
    } | changes  # fmt: skip


def result(verdict: str) -> AuditResult:
    curve = (np.logspace(-4, 0, 5), np.linspace(0, 1, 5))

    def protection(bgr: np.ndarray) -> Protected:
        return Protected(bgr, None, (HULL,))

    use = {
        "metric": "detection_recall", "protection": "veilcam", "value": 1.0, "low": 0.9,
        "high": 1.0, "best": 1.0, "unit": "", "n": 9,
    }  # fmt: skip
    value = {
        "claims": {
            "training": None,
            "inference": {"bits_per_frame": 35, "static_fields": [], "placed": "box"},
            "data": [],
        },
        "attacks": [row(), row(name="<script>", p_value=1.0, control_positive=None)],
        "utility": [use],
        "verdict": verdict,
        "reasons": ["because <b>"],
        "controls": [{"name": "c", "value": None, "wanted": "w", "ok": verdict != "broken"}],
        "skipped": ["something"],
        "people": {"are_drawn_by_the_bundle": True, "attacked": 9, "learned_on": 9},
        "mode": "face",
        "strength": "balanced",
        "bundle_sha256": "0" * 64,
        "is_quick": True,
        "seconds": 1.0,
    }
    tools = Instruments(protection, FaceFinder(), (), load_mesh(), None, None)
    curves = {("veilcam, off the shelf", "one"): curve, ("unprotected copy", "one"): curve}
    shown = (Picture("nobody", 0, noise),)
    return AuditResult(value, curves, tools, shown)


@pytest.mark.parametrize("verdict", ["pass", "fail", "broken"])
def test_the_page_is_self_contained_and_escapes(verdict: str) -> None:
    page = render(result(verdict))
    assert f"verdict {verdict}" in page
    assert 'src="data:image/jpeg' in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "because &lt;b&gt;" in page
    assert page.count("<svg") == 3  # one ROC; one gallery against each of two uses
    for part in ("What is claimed", "What was measured", "Limits", "prefers-color-scheme:dark"):
        assert part in page


def test_audits_at_other_strengths_stand_beside_this_one() -> None:
    found = result("pass")
    other = {name: found.value[name] for name in ("attacks", "utility", "verdict")}
    found.value["beside"] = [other | {"strength": "strict"}]
    page = render(found)
    assert page.count("veilcam, strict") == 2
    assert page.count("veilcam, balanced") == 2


@pytest.mark.parametrize(
    ("text", "message"), [("{}", "no result of"), ("nothing", "cannot be read as JSON")]
)
def test_what_is_no_audit_is_not_put_beside_one(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        audit(AuditOptions(), None, (tmp_path / "x.json",))


def test_text_names_the_deciding_rows_and_the_verdict() -> None:
    text = to_text(result("fail").value)
    assert "verdict: fail" in text
    assert "control 1.000" in text
    assert "not done: something" in text


def test_quick_is_smaller() -> None:
    quick, full = AuditOptions(is_quick=True).sizes, AuditOptions().sizes
    assert all(a < b for a, b in zip(quick, full, strict=True))


@pytest.mark.slow
def test_a_whole_audit_on_drawn_people_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(AuditOptions, "sizes", (60, 60, 4))
    monkeypatch.delenv("VEILCAM_MODELS", raising=False)
    page = tmp_path / "report.html"
    code = call(["audit", str(default_bundle_path()), "--quick", "--json", "-o", str(page)])
    value = json.loads(capsys.readouterr().out)
    assert {"claims", "attacks", "utility", "verdict"} <= set(value)
    assert value["people"]["are_drawn_by_the_bundle"]
    assert page.is_file()
    # the package has one recognizer, and one alone vouches for nothing
    assert (code, value["verdict"]) == (1, "broken")
    assert any("two recognizers" in reason for reason in value["reasons"])
