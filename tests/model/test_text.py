"""Captions say what tokens say, measures find what is there, and the text net learns to answer."""

import random

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera.text_looks import Looks
from veilcam.camera.text_tokens import (
    COLUMNS,
    LOOKS,
    MAX_SIZE,
    MAX_WORDS,
    NAMES,
    NUM_STATIC,
    NUM_TOKENS,
    SAID,
    SIZES,
    UNSAID_CLASS,
    Vocabulary,
    words_of,
)
from veilcam.model.attributes import (
    fit_logistic,
    hair_beside_jaw,
    hair_lab,
    labels_by_eye,
    log_odds,
    looks_by_eye,
)
from veilcam.model.captions import caption, every_word, looks_of, notable, said_tokens
from veilcam.model.looks import class_places, find_drawn, find_reach, fit_guesses, without_unlearned
from veilcam.model.text import train_text
from veilcam.model.text_data import HAIR_TONES, dynamic_tokens, half_of, static_tokens

CALM = {
    "yaw": 0.0,
    "pitch": 0.0,
    "mouth_open": 0.02,
    "mouth_wide": 0.85,
    "smile": 0.05,
    "eyelid_left": 0.12,
    "eyelid_right": 0.12,
    "gaze_x": 0.0,
    "gaze_y": 0.05,
    "brow": 0.39,
}


def row(looks: dict[str, str], **values: float) -> np.ndarray:
    """Tokens of a head; looks that are not named are not known."""
    static = [look.classes.index(looks[look.name]) if look.name in looks else -1 for look in LOOKS]
    said = CALM | values
    return np.array(static + [field.quantize(said[field.name]) for field in SAID])


def captions(tokens: np.ndarray, count: int = 300) -> list[str]:
    dice = random.Random(0)
    return [caption(tokens, dice)[0] for _ in range(count)]


def test_captions_are_made_of_the_vocabulary() -> None:
    words = Vocabulary(every_word())
    tokens = row({look.name: look.classes[-1] for look in LOOKS}, yaw=-40.0, smile=0.16)
    for text in captions(tokens):
        assert words.encode(text)[1] == ()


@given(st.integers(0, 2**32 - 1))
def test_any_tokens_have_a_caption(seed: int) -> None:
    chance = np.random.default_rng(seed)
    lowest = [-1 if i < NUM_STATIC else 0 for i in range(NUM_TOKENS)]
    tokens = chance.integers(lowest, UNSAID_CLASS)
    text, said = caption(tokens, random.Random(seed))
    assert words_of(text)
    assert ("glasses" in said) == bool(
        {"glasses", "spectacles", "eyeglasses", "sunglasses"} & set(words_of(text))
    )
    targets = said_tokens(tokens, said)
    spoken = [name in said for name in NAMES]
    assert (targets == np.where(spoken, tokens, UNSAID_CLASS)).all()


@pytest.mark.parametrize(
    ("looks", "often", "never"),
    [
        ({"sex": "male", "age": "old"}, "man", "woman"),
        ({"sex": "female", "age": "child"}, "girl", "boy"),
        ({"beard": "yes"}, "beard", "shaven"),
        ({"beard": "no"}, "shaven", "goatee"),
        ({"glasses": "yes"}, "glasses", "no"),
        ({"hair_length": "bald", "hair_tone": "black"}, "bald", "black"),
    ],
)
def test_captions_say_what_is_there_and_nothing_else(
    looks: dict[str, str], often: str, never: str
) -> None:
    said = [words_of(text) for text in captions(row(looks))]
    assert sum(often in words for words in said) > 20
    if (looks, never) != ({"glasses": "yes"}, "no"):
        assert not any(never in words for words in said)


def test_what_is_unusual_is_mostly_said() -> None:
    texts = captions(row({}, yaw=-25.0))
    assert sum("left" in text for text in texts) > 0.7 * len(texts)
    assert not any("left" in text or "right" in text for text in captions(row({})))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, []),
        ({"yaw": 20.0}, ["yaw+"]),
        ({"yaw": -45.0}, ["yaw--"]),
        ({"smile": 0.09}, ["smile+"]),
        ({"smile": 0.14, "mouth_open": 0.15}, ["laugh"]),
        ({"mouth_open": 0.15}, ["open"]),
        ({"mouth_open": 0.3}, ["open+"]),
        ({"eyelid_left": 0.02, "eyelid_right": 0.02, "gaze_x": 0.2}, ["shut"]),
        ({"eyelid_left": 0.02}, ["wink"]),
        ({"gaze_x": -0.15}, ["gaze_x-"]),
        ({"pitch": -20.0, "brow": 0.47}, ["pitch-", "brow+"]),
    ],
)
def test_expressions_are_named(values: dict[str, float], wanted: list[str]) -> None:
    assert notable(CALM | values) == wanted


def test_static_tokens_of_measured_numbers() -> None:
    usual = {"skin": 75.0, "hair_gap": 50.0, "hair_length": 0.9, "sex": -3.0, "age": 25.0,
             "beard": -4.0, "glasses": -4.0}  # fmt: skip
    names = list(HAIR_TONES)
    numbers = [
        {**usual, **dict(zip(("hair_l", "hair_a", "hair_b"), lab, strict=True))}
        for lab in HAIR_TONES.values()
    ]
    numbers.append({**numbers[0], "hair_gap": 3.0, "age": 70.0, "sex": 3.0, "glasses": 2.0})
    numbers.append({**usual, "hair_l": np.nan, "hair_a": np.nan, "hair_b": np.nan,
                    "hair_gap": np.nan})  # fmt: skip
    rows = np.array([[entry[name] for name in COLUMNS] for entry in numbers], np.float32)
    tokens = static_tokens(rows)
    assert [looks_of(t)["hair_tone"] for t in tokens[: len(names)]] == names
    assert looks_of(tokens[0])["hair_length"] == "long"
    bald = looks_of(tokens[-2])
    assert "hair_tone" not in bald
    assert (bald["hair_length"], bald["age"], bald["sex"]) == ("bald", "old", "male")
    assert bald["glasses"] == "yes"
    assert looks_of(tokens[-1])["hair_length"] == "bald"


def test_dynamic_tokens_are_the_codes_own_levels() -> None:
    from veilcam.camera.code import HEAD_FIELDS

    values = np.array([[field.dequantize(2) for field in HEAD_FIELDS]], np.float32)
    assert dynamic_tokens(values)[0].tolist() == [2] * len(SAID)


def head_picture(*, long_hair: bool) -> tuple[np.ndarray, np.ndarray]:
    """A skin-coloured disc under red hair, and the few mesh points that measures use."""
    bgra = np.zeros((128, 128, 4), np.uint8)
    if long_hair:
        cv2.rectangle(bgra, (20, 20), (108, 110), (30, 40, 140, 255), -1)
    cv2.ellipse(bgra, (64, 62), (38, 50), 0, 180, 360, (30, 40, 140, 255), -1)
    cv2.ellipse(bgra, (64, 70), (30, 38), 0, 0, 360, (130, 160, 200, 255), -1)
    points = np.full((468, 2), 64.0)
    points[10], points[152], points[13] = (64, 32), (64, 108), (64, 88)
    points[172], points[397] = (38, 92), (90, 92)
    points[234], points[454] = (34, 70), (94, 70)
    return bgra, points


def test_hair_is_seen_by_colour_and_place() -> None:
    short, points = head_picture(long_hair=False)
    long, _ = head_picture(long_hair=True)
    lab = hair_lab(short, points)
    assert lab[1] > 25  # red
    assert hair_beside_jaw(short, points) < 0.15
    assert hair_beside_jaw(long, points) > 0.6
    assert np.isnan(hair_lab(np.zeros((128, 128, 4), np.uint8), points)).all()


def test_logistic_regression_with_more_features_than_rows() -> None:
    chance = np.random.default_rng(0)
    y = (np.arange(90) % 3 == 0).astype(float)
    x = chance.standard_normal((90, 120))
    x[:, 0] += 3 * y
    weights = fit_logistic(x, y)
    fresh = chance.standard_normal((2000, 120))
    truth = np.arange(2000) % 2 == 0
    fresh[:, 0] += 3 * truth
    assert np.corrcoef(log_odds(weights, fresh), truth)[0, 1] > 0.4
    dealt = fit_logistic(x, chance.permutation(y))  # control: nothing to learn
    assert abs(np.corrcoef(log_odds(dealt, fresh), truth)[0, 1]) < 0.35


def test_labels_by_eye_agree_with_themselves() -> None:
    for look, (yes, unsure) in looks_by_eye().items():
        assert len(yes) > 80, look
        assert not yes & unsure
    yes = sorted(looks_by_eye()["glasses"][0])
    names = [f"synthetic/syn_{yes[0]}.jpg", "synthetic/syn_none.jpg", f"generated/{yes[0]}.jpg"]
    labels = labels_by_eye(names, "glasses")
    assert labels[:2].tolist() == [1, 0]
    assert np.isnan(labels[2])
    assert 0.3 < half_of([str(i) for i in range(400)]).mean() < 0.7


def test_guesses_find_what_latents_say_and_admit_what_they_do_not() -> None:
    chance = np.random.default_rng(0)
    latents = chance.standard_normal((900, 6)).astype(np.float32)
    numbers = chance.standard_normal((900, len(COLUMNS))).astype(np.float32)
    numbers[:, 0] = 50 + 8 * latents[:, 1] + chance.standard_normal(900)
    numbers[:, 1] = 20 * np.abs(latents[:, 2])  # no line tells it
    numbers[chance.random(900) < 0.1, 1] = np.nan
    fitted, told = fit_guesses(latents, numbers, chance)
    assert told[COLUMNS[0]] > 0.95
    assert told[COLUMNS[1]] > 0.5
    assert abs(told[COLUMNS[5]]) < 0.15
    places = np.full((len(LOOKS), 8, len(COLUMNS)), np.nan, np.float32)
    num = np.zeros(len(COLUMNS), np.float32)
    looks = Looks(**fitted, low=num, high=num + 1, centers=places, spreads=places)
    again = Looks.load(_saved(looks))
    guess = again.guess(latents)[:, :2]
    assert np.corrcoef(guess[:, 0], numbers[:, 0])[0, 1] > 0.97
    straight = latents @ again.linear[1, :-1]
    assert abs(np.corrcoef(straight, np.abs(latents[:, 2]))[0, 1]) < 0.4
    assert np.corrcoef(guess[:, 1], np.abs(latents[:, 2]))[0, 1] > 0.7


def _saved(looks: Looks) -> bytes:
    import io

    stream = io.BytesIO()
    np.savez(stream, **looks.arrays())
    return stream.getvalue()


def test_reach_is_false_where_the_generator_does_not_go() -> None:
    chance = np.random.default_rng(0)
    numbers = np.zeros((200, len(COLUMNS)), np.float32)
    static = np.zeros((200, NUM_STATIC), np.int64)
    static[100:] = 1
    for look in ("sex", "beard"):
        numbers[:100, COLUMNS.index(look)] = -5 + chance.standard_normal(100)
        numbers[100:, COLUMNS.index(look)] = 5 + chance.standard_normal(100)
    centers, spreads = class_places(numbers, static)
    num, size = len(COLUMNS), 2
    low, high = np.full(num, -5.0, np.float32), np.full(num, 5.0, np.float32)
    high[COLUMNS.index("beard")] = -2.0  # only shaven people are painted
    looks = Looks(
        linear=np.zeros((num, size + 1), np.float32),
        rest=np.ones(num, np.float32),
        hidden=np.zeros((1, size + 1), np.float32),
        out=np.zeros((num, 2), np.float32),
        center=np.zeros(size, np.float32),
        scale=np.ones(size, np.float32),
        low=low,
        high=high,
        centers=centers,
        spreads=spreads,
    )
    reach = find_reach(looks)
    assert reach["sex"] == {"female": True, "male": True}
    assert reach["beard"] == {"no": True, "yes": False}
    assert not reach["age"]["old"]  # never seen
    told = {name: 0.9 if name == "sex" else 0.1 for name in COLUMNS}
    kept = without_unlearned(looks, told)
    assert [len(kept.targets(wanted)[0]) for wanted in ({"sex": 1}, {"beard": 1})] == [1, 0]


def test_a_class_inside_each_range_but_where_no_head_is_is_not_reached() -> None:
    """Heads whose hair is the more coloured the lighter it is: light grey lies off that line."""
    num, row = len(COLUMNS), [look.name for look in LOOKS].index("hair_tone")
    own = [COLUMNS.index(name) for name in LOOKS[row].columns]
    shape = (len(LOOKS), 8, num)
    centers, spreads = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    places = {"black": (-1, -1, -1), "blond": (1, 1, 1), "grey": (1, -1, -1)}
    for name, place in places.items():
        level = LOOKS[row].classes.index(name)
        centers[row, level, own], spreads[row, level, own] = place, 0.2
    linear = np.zeros((num, 3), np.float32)
    linear[own, 0] = 1.0
    looks = Looks(
        linear=linear, rest=np.full(num, 0.1, np.float32), hidden=np.zeros((1, 3), np.float32),
        out=np.zeros((num, 2), np.float32), center=np.zeros(2, np.float32),
        scale=np.ones(2, np.float32), low=np.full(num, -1.5, np.float32),
        high=np.full(num, 1.5, np.float32), centers=centers, spreads=spreads,
    )  # fmt: skip
    drawn = find_drawn(looks, np.zeros(2, np.float32), np.eye(2, dtype=np.float32))
    assert drawn["hair_tone"] == {"black": True, "blond": True, "grey": False}
    assert find_reach(looks)["hair_tone"]["grey"]  # each number alone would allow it
    assert drawn["age"] == {}


@pytest.fixture(scope="module")
def schooled() -> tuple:
    """A net that saw two kinds of heads: smiling old men and calm girls."""
    first = row({"sex": "male", "age": "old", "glasses": "yes"}, smile=0.1)
    second = row({"sex": "female", "age": "child", "glasses": "no"})
    return (
        train_text(np.stack([first, second] * 20), np.ones(40), num_steps=60, batch_size=16),
        first,
        second,
    )


def odds_of(net: object, words: Vocabulary, text: str) -> tuple[np.ndarray, np.ndarray]:
    ids, unknown = words.encode(text)
    assert unknown == ()
    hot = np.zeros((MAX_WORDS, words.size), np.float32)
    hot[np.flatnonzero(ids), ids[ids > 0]] = 1
    tokens = np.zeros((NUM_TOKENS, MAX_SIZE), np.float32)
    odds = jax.jit(net.__call__)(jnp.asarray(hot), jnp.asarray(tokens))  # type: ignore[operator]
    return hot, np.asarray(odds)


def test_a_schooled_net_answers_by_the_words(schooled: tuple) -> None:
    (net, words, seen), first, second = schooled
    assert np.mean(seen[-5:]) < 0.5 * seen[0]
    for text, wanted in (("an old man smiling", first), ("a girl", second)):
        _, odds = odds_of(net, words, text)
        assert odds[0].argmax() == wanted[0]
        assert odds[1].argmax() == wanted[1]
        assert odds[2].argmax() == UNSAID_CLASS[2]  # nobody spoke of skin
    outside = [odds[i, size:].max(initial=-np.inf) for i, size in enumerate(SIZES)]
    assert max(outside) < -1e3  # classes that a token has not
    assert seen[0] > 5


def test_the_exported_graph_says_what_the_net_says(schooled: tuple) -> None:
    ort = pytest.importorskip("onnxruntime")
    export = pytest.importorskip("veilcam.export.text")
    (net, words, _), *_ = schooled
    data = export.build_text_graph(net, words.size).SerializeToString()
    assert len(data) < 450_000
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    for text in ("an old man smiling", "a girl"):
        hot, odds = odds_of(net, words, text)
        tokens = np.zeros((1, NUM_TOKENS, MAX_SIZE), np.float32)
        (got,) = session.run(["odds"], {"words": hot[None], "tokens": tokens})
        for place, size in enumerate(SIZES):
            np.testing.assert_allclose(got[0, place, :size], odds[place, :size], atol=0.05)
