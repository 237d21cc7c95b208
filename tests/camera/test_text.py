"""Words become tokens, tokens become people; what words cannot do is said."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera import cast as casts
from veilcam.camera import cli, session
from veilcam.camera.cast import Cast
from veilcam.camera.casting import Caster, casting_for, check_cast
from veilcam.camera.clip import ClipSource
from veilcam.camera.code import HEAD_FIELDS, Encoder
from veilcam.camera.errors import ConfigError, GraphError, InputError, SinkError
from veilcam.camera.imagine import imagine
from veilcam.camera.light import SKIN_CLASSES, skin_class
from veilcam.camera.manifest import Bundle, default_bundle_path, load_bundle
from veilcam.camera.pictures import protect
from veilcam.camera.settings import Settings, from_values
from veilcam.camera.source import demo_clip
from veilcam.camera.text import TextPart
from veilcam.camera.text_looks import Looks
from veilcam.camera.text_tokens import (
    COLUMNS,
    LOOKS,
    MAX_SIZE,
    MAX_WORDS,
    NUM_STATIC,
    NUM_TOKENS,
    SAID,
    UNSAID_CLASS,
    Vocabulary,
    words_of,
)
from veilcam.camera.types import Head, Scene

NUM_LATENT = 4
WORDS = (
    "bearded",
    "dark",
    "glasses",
    "old",
    "person",
    "skin",
    "smiling",
    "turned",
    "woman",
    "young",
)
SMILE = NUM_STATIC + [field.name for field in SAID].index("smile")
# word -> (token, class) that it makes all but sure
SAYS = {
    "old": (1, 3),
    "young": (1, 1),
    "woman": (0, 0),
    "dark": (2, 0),
    "bearded": (5, 1),
    "glasses": (6, 1),
    "smiling": (SMILE, 7),
    "turned": (NUM_STATIC, 30),
}
WritePart = Callable[..., Path]


def _graph() -> bytes:
    """Log-odds that only the words move."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    num_words = len(WORDS) + 2
    weights = np.zeros((num_words, NUM_TOKENS, MAX_SIZE), np.float32)
    for word, (token, level) in SAYS.items():
        weights[WORDS.index(word) + 2, token, level] = 12.0
    silence = np.zeros((1, NUM_TOKENS, MAX_SIZE), np.float32)
    silence[0, range(NUM_TOKENS), UNSAID_CLASS] = 6.0
    constants = {
        "weights": weights.reshape(num_words, -1),
        "shape": np.asarray([1, NUM_TOKENS, MAX_SIZE], np.int64),
        "axis": np.asarray([1], np.int64),
        "nothing": np.zeros((1, NUM_TOKENS, MAX_SIZE), np.float32),
        "silence": silence,
    }
    nodes = [
        helper.make_node("ReduceSum", ["words", "axis"], ["bag"], keepdims=0),
        helper.make_node("MatMul", ["bag", "weights"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["told"]),
        helper.make_node("Mul", ["tokens", "nothing"], ["ignored"]),
        helper.make_node("Add", ["told", "ignored"], ["said"]),
        helper.make_node("Add", ["said", "silence"], ["odds"]),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [
            helper.make_tensor_value_info("words", kinds.FLOAT, [1, MAX_WORDS, num_words]),
            helper.make_tensor_value_info("tokens", kinds.FLOAT, [1, NUM_TOKENS, MAX_SIZE]),
        ],
        [helper.make_tensor_value_info("odds", kinds.FLOAT, [1, NUM_TOKENS, MAX_SIZE])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


def make_looks(size: int = NUM_LATENT) -> Looks:
    """Latent 0 is the age in steps of 10 years from 40, latent 1 the skin."""
    num = len(COLUMNS)
    linear = np.zeros((num, size + 1), np.float32)
    linear[COLUMNS.index("age"), [0, size]] = 10, 40
    linear[COLUMNS.index("skin"), [1, size]] = 12, 55
    centers = np.full((len(LOOKS), 8, num), np.nan, np.float32)
    centers[1, :4, COLUMNS.index("age")] = 8, 26, 42, 68
    centers[2, :4, COLUMNS.index("skin")] = 30, 47, 63, 76
    return Looks(
        linear=linear,
        rest=np.full(num, 0.1, np.float32),
        hidden=np.zeros((3, size + 1), np.float32),
        out=np.zeros((num, 4), np.float32),
        center=np.zeros(size, np.float32),
        scale=np.ones(size, np.float32),
        low=np.full(num, 20, np.float32),
        high=np.full(num, 80, np.float32),
        centers=centers,
        spreads=np.full_like(centers, 2.0),
    )


@pytest.fixture
def bundle(make_bundle: Callable[..., Path], tmp_path: Path) -> Bundle:
    return load_bundle(make_bundle(tmp_path / "flat.veil"))


def write_beside(bundle: Bundle, /, **changes: Any) -> Path:
    """Writes a text part beside a bundle; `changes` replace keys of its manifest."""
    folder = bundle.path.parent / "text.veil"
    folder.mkdir()
    (folder / "text.onnx").write_bytes(_graph())
    np.savez(folder / "looks.npz", **make_looks(len(bundle.mean)).arrays())
    manifest = {
        "schema_version": 1,
        "vocabulary": WORDS,
        "nouns": ["woman"],
        "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()},
        "bundle": {"fp32.onnx": bundle.manifest["files"]["fp32.onnx"]},
        "moves": {"smile": 0.9, "yaw": 0.1},
        "reach": {x.name: dict.fromkeys(x.classes, x.name != "glasses") for x in LOOKS},
    } | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def write_part(bundle: Bundle) -> WritePart:
    """The writer above, for the flat bundle."""
    return partial(write_beside, bundle)


@pytest.fixture
def part(bundle: Bundle, write_part: WritePart) -> TextPart:
    write_part()
    return TextPart(bundle)


@pytest.fixture(autouse=True)
def _nobody_is_cast_afterwards() -> Any:
    yield
    casts.choose_cast(None)


@pytest.mark.parametrize(
    ("text", "known", "unknown"),
    [
        ("", 0, ()),
        ("an old woman", 2, ()),
        ("OLD, old -- bearded!", 3, ()),
        ("a robot with a jetpack, smiling robot", 1, ("robot", "jetpack")),
        ("dark-skin", 2, ()),
        ("\u5e74\u8001", 0, ()),
        ("old " * 40, MAX_WORDS, ("old",)),
    ],
)
def test_words_are_told_from_words_that_are_not_known(
    text: str, known: int, unknown: tuple[str, ...]
) -> None:
    ids, missing = Vocabulary(WORDS).encode(text)
    assert (np.count_nonzero(ids), missing) == (known, unknown)


@given(st.text(max_size=300))
def test_no_text_breaks_the_tokenizer(text: str) -> None:
    ids, missing = Vocabulary(WORDS).encode(text)
    assert ids.shape == (MAX_WORDS,)
    assert set(missing) <= set(words_of(text))
    assert ((ids == 0) | (ids > 1)).all()


def test_tokens_say_what_was_asked_and_only_that(part: TextPart) -> None:
    ids, _ = part.read("an old bearded woman")
    for seed in range(20):
        tokens = part.write(ids, np.random.default_rng(seed))
        assert tokens.looks == {"sex": "female", "age": "old", "beard": "yes"}
        assert not tokens.has_expression


def test_what_is_not_asked_varies(part: TextPart) -> None:
    ids, _ = part.read("old")
    drawn = [part.draw(ids, np.random.default_rng(seed)) for seed in range(40)]
    assert {person.tokens.looks["age"] for person in drawn} == {"old"}
    assert len({person.skin_class for person in drawn}) > 1
    assert len({person.latent.tobytes() for person in drawn}) == 40


def test_expression_words_reach_the_code_and_the_rest_stays_calm(part: TextPart) -> None:
    plain, smiling = (
        part.write(part.read(text)[0], np.random.default_rng(0)) for text in ("old", "old smiling")
    )
    names = [field.name for field in HEAD_FIELDS]
    changed = {n for n, a, b in zip(names, plain.values, smiling.values, strict=True) if a != b}
    assert changed == {"smile"}
    assert smiling.values[names.index("smile")] > plain.values[names.index("smile")]
    assert smiling.has_expression


def test_asked_looks_move_the_latent_and_others_do_not() -> None:
    looks, random = make_looks(), np.random.default_rng(0)
    mean, chol = np.zeros(NUM_LATENT, np.float32), np.eye(NUM_LATENT, dtype=np.float32)
    old, young = (
        np.stack([looks.draw(mean, chol, {"age": level}, random) for _ in range(60)])
        for level in (3, 1)
    )
    assert old[:, 0].mean() == pytest.approx(2.8, abs=0.3)  # 68 years
    assert young[:, 0].mean() == pytest.approx(-1.4, abs=0.3)
    assert np.abs(old[:, 2:].mean(0)).max() < 0.35
    assert old[:, 2:].std() > 0.4  # still different people


def test_no_draw_lies_further_out_than_latents_do() -> None:
    looks, random = make_looks(), np.random.default_rng(0)
    chol = 0.1 * np.eye(NUM_LATENT, dtype=np.float32)
    far = looks.draw(np.zeros(NUM_LATENT, np.float32), chol, {"age": 3, "skin": 3}, random)
    assert np.sqrt(np.square(far / 0.1).mean()) < 3.01


def test_a_class_that_no_picture_showed_asks_for_nothing() -> None:
    columns, numbers, spreads = make_looks().targets({"beard": 1})
    assert len(columns) == len(numbers) == len(spreads) == 0


def test_deviations_keep_the_proportions_of_the_class() -> None:
    """Grey hair: not the colour alone, whose painted range is small, decides what comes of it."""
    looks, row = make_looks(), [look.name for look in LOOKS].index("hair_tone")
    own = [COLUMNS.index(name) for name in LOOKS[row].columns]
    grey, centers, spreads = 5, looks.centers.copy(), looks.spreads.copy()
    high, low = looks.high.copy(), looks.low.copy()
    centers[row, grey, own], spreads[row, grey, own] = (48.0, 1.4, 5.5), (8.0, 4.0, 4.0)
    low[own], high[own] = (10.0, 0.0, 2.0), (52.0, 6.0, 8.0)  # a sixth: 7, 1, 1
    looks = replace(looks, centers=centers, spreads=spreads, low=low, high=high)
    columns, numbers, deviations = looks.targets({"hair_tone": grey})
    assert columns.tolist() == own
    assert numbers == pytest.approx([48.0, 1.4, 5.5], rel=1e-5)
    assert deviations == pytest.approx(np.array([8.0, 4.0, 4.0]) * (7 / 8 / 16) ** (1 / 3))


def test_skin_comes_from_words_not_from_the_person(part: TextPart, bundle: Bundle) -> None:
    """One class whoever sits there; and the control: without words the person's own is sent."""
    casting = Caster(part, Cast(others="dark skin"))
    cast_as, own = (
        Encoder(
            bundle.mean, bundle.chol, bundle.skin, strength=casts_strength(), casting=casting_of
        )
        for casting_of in (casting, None)
    )
    seen: list[set[int]] = []
    for encoder in (cast_as, own):
        codes = encoder.encode(_scene(40), dict.fromkeys(range(40), SKIN_CLASSES[3]))
        seen.append({skin_class(head.skin_bgr) for head in codes.heads})
    assert seen[0] == {0}
    assert 3 in seen[1]


def casts_strength() -> Any:
    from veilcam.camera.strength import Strength

    return Strength.FAITHFUL


def _scene(num_heads: int) -> Scene:
    head = {
        "center_xy": (50.0, 50.0),
        "size_px": 40.0,
        "yaw_deg": 0.0,
        "pitch_deg": 0.0,
        "roll_deg": 0.0,
        "expression": {},
        "hull_xy": np.array([[30.0, 30.0], [70.0, 30.0], [50.0, 70.0]]),
        "is_predicted": False,
    }
    heads = tuple(Head(track_id=i, **head) for i in range(num_heads))
    return Scene(size_hw=(100, 100), heads=heads)


def test_several_people_get_several_draws_and_the_file_decides_who(
    part: TextPart, bundle: Bundle
) -> None:
    caster = Caster(part, Cast(people=("young", "old"), others=""))
    random = np.random.default_rng(0)
    first, second, third = (caster(random) for _ in range(3))
    assert first is not None
    assert second is not None
    assert first.latent[0] < 0 < second.latent[0]
    assert third is None
    for num_ready in (0, 3):
        everyone = Caster(part, Cast(others="old"), num_ready=num_ready)
        people = [everyone(random) for _ in range(5)]
        assert len({person.latent.tobytes() for person in people if person}) == 5


@pytest.mark.parametrize(
    ("prompt", "paints", "warned"),
    [
        ("an old woman", False, []),
        ("a robot, old", True, ["words that are not known and were left out: robot"]),
        ("old with glasses", True, ["this generator hardly paints: glasses yes"]),
        ("old smiling", False, ["pose and expression come from the camera: words for them"]),
        ("old smiling", True, []),
        ("old turned", True, ["this generator hardly paints: yaw"]),
        ("old turned", False, ["pose and expression come from the camera: words for them"]),
    ],
)
def test_users_are_warned_of_what_words_will_not_do(
    part: TextPart, bundle: Bundle, prompt: str, paints: bool, warned: list[str]
) -> None:
    got = check_cast(Cast(others=prompt), bundle, paints_expression=paints)
    assert len(got) == len(warned)
    assert all(text.startswith(start) for text, start in zip(got, warned, strict=True))


@pytest.mark.parametrize(
    ("prompt", "match"), [("", "is empty"), ("  ", "is empty"), ("robot jetpack", "robot, jetpack")]
)
def test_prompts_that_say_nothing_are_refused(part: TextPart, prompt: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        part.read(prompt)


def test_a_prompt_without_a_noun_is_given_one(part: TextPart) -> None:
    person = WORDS.index("person") + 2
    assert part.read("old")[0][:3].tolist() == [person, WORDS.index("old") + 2, 0]
    assert person not in part.read("old woman")[0]


@pytest.mark.parametrize("name", ["text.onnx", "looks.npz"])
def test_a_changed_file_is_refused(bundle: Bundle, write_part: WritePart, name: str) -> None:
    path = write_part() / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(GraphError, match=rf"{name} was changed"):
        TextPart(bundle)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"schema_version": 2}, GraphError, "no schema_version 1"),
        ({"bundle": {"fp32.onnx": "other"}}, ConfigError, "for another generator"),
    ],
)
def test_a_part_for_something_else_is_refused(
    bundle: Bundle, write_part: WritePart, changes: dict[str, Any], error: type, match: str
) -> None:
    write_part(**changes)
    with pytest.raises(error, match=match):
        TextPart(bundle)


def test_imagine_paints_a_sheet(part: TextPart, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    report = imagine("an old robot", out, num_people=5, bundle=bundle.path)
    sheet = cv2.imread(str(out))
    assert sheet.shape == (2 * 192, 4 * 192, 3)
    assert len(report["people"]) == 5
    assert report["unknown_words"] == ["robot"]
    assert report["people"] == [{"age": "old"}] * 5
    assert report["understood"] == {"age": "old"}
    empty = sheet[192:, 192:].astype(int)  # nobody in the cells that are left
    assert np.abs(empty - 176).max() <= 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_imagine_draws_other_people_each_time(
    part: TextPart, bundle: Bundle, tmp_path: Path
) -> None:
    sheets = []
    for name in ("a.png", "b.png"):
        imagine("old", tmp_path / name, num_people=20, bundle=bundle.path)
        sheets.append((tmp_path / name).read_bytes())
    assert sheets[0] != sheets[1]


@pytest.mark.parametrize(("name", "error"), [("a.jpg", InputError), ("no/a.png", SinkError)])
def test_imagine_refuses_outputs_it_cannot_write(
    part: TextPart, bundle: Bundle, tmp_path: Path, name: str, error: type
) -> None:
    with pytest.raises(error, match=r"a\.(jpg|png)"):
        imagine("old", tmp_path / name, bundle=bundle.path)


def test_settings_carry_the_cast_to_the_other_process(part: TextPart, bundle: Bundle) -> None:
    casts.choose_cast(Cast(people=("old",)))
    values = Settings(source="demo", sink="null").to_values()
    casts.choose_cast(None)
    assert casting_for(bundle) is None
    assert from_values(values).cast == {"1": "old"}
    assert casting_for(bundle) is not None


def test_the_skin_token_has_the_classes_that_compose_knows() -> None:
    skin = next(look for look in LOOKS if look.name == "skin")
    assert len(skin.classes) == len(SKIN_CLASSES)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A copy of the package's generator, with words beside it."""
    folder = tmp_path / "copy" / "face.veil"
    shutil.copytree(default_bundle_path(), folder)
    write_beside(load_bundle(folder))
    return folder


@pytest.mark.skipif(not session.has_two_processes(), reason="two processes need Linux")
def test_a_run_is_cast_in_the_other_process(
    real: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "demo", "--sink", f"file:{tmp_path / 'out.mp4'}", "--frames", "3", "--json"]
    arguments += ["--bundle", str(real), "--prompt", "an old robot, smiling"]
    assert cli.call(arguments) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["frames_out"], report["frames_blank"], report["faults"]) == (3, 0, 0)
    assert report["heads_replaced"] > 0
    assert [text.split(":")[0] for text in report["cast_warnings"]] == [
        "words that are not known and were left out",
        "pose and expression come from the camera",
    ]


def test_a_picture_is_cast(real: Path) -> None:
    source = ClipSource(demo_clip())
    frame = source.read()
    source.close()
    assert frame is not None
    safe = protect(frame.bgr, bundle=real, prompt="an old person with dark skin")
    assert safe.reason == ""
    assert (safe.bgr != frame.bgr).any()
    with pytest.raises(InputError, match="robot"):
        protect(frame.bgr, bundle=real, prompt="robot")
    with pytest.raises(ConfigError, match="--prompt is empty"):
        protect(frame.bgr, bundle=real, prompt="")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo", "--sink", "null", "--prompt", "robot"], "no word that is known"),
        (["run", "demo", "--sink", "null", "--cast", "none.toml"], "none.toml cannot be read"),
        (["run", "demo", "--mode", "scene", "--prompt", "old"], "mode scene paints none"),
        (["imagine", "old", "-o", "sheet.gif"], "wanted .png"),
        (["imagine", " ", "-o", "sheet.png"], "the prompt is empty"),
    ],
)
def test_bad_words_are_one_line_and_exit_2(
    part: TextPart,
    bundle: Bundle,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert cli.call([*arguments, "--bundle", str(bundle.path), "--json"]) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert json.loads(captured.out)["exit_code"] == 2


def test_the_packages_words_are_for_its_generator() -> None:
    """Red after a new generator: run `python -m veilcam.export.text`, see docs/text.md."""
    bundle = load_bundle()
    part = TextPart(bundle)
    assert sum(path.stat().st_size for path in part.folder.iterdir()) < 500_000
    random = np.random.default_rng(0)
    ids, unknown = part.read("an old man with glasses and a beard, smiling, looking left")
    assert unknown == ()
    person = part.draw(ids, random)
    assert person.tokens.looks == {"sex": "male", "age": "old", "beard": "yes", "glasses": "yes"}
    values = dict(zip((field.name for field in HEAD_FIELDS), person.tokens.values, strict=True))
    assert values["yaw"] < -9
    assert values["smile"] > 0.07
    assert part.draw(part.read("a woman")[0], random).tokens.looks == {"sex": "female"}
