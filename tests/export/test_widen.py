"""Cut channels keep the function and halve the rounding error; weights end on int8's own grid."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from veilcam.export.observe import observe
from veilcam.export.round_weights import gptq, round_weights, second_moment
from veilcam.export.widen import Split, choose, plan_splits, widen

CHANNELS, CEILING = 6, 6.0


@pytest.fixture(scope="module")
def pair() -> ModelProto:
    """Convolution, clip, convolution: 3 -> 6 -> 2 channels on 5x5 pixels."""
    random = np.random.default_rng(0)
    arrays = {
        "w1": random.normal(0, 1.0, (CHANNELS, 3, 3, 3)),
        "b1": random.normal(0, 1.0, CHANNELS),
        "low": np.float64(0),
        "high": np.float64(CEILING),
        "w2": random.normal(0, 0.3, (2, CHANNELS, 3, 3)),
        "b2": random.normal(0, 1.0, 2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["m"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["m", "low", "high"], ["c"], "clip"),
        helper.make_node("Conv", ["c", "w2", "b2"], ["y"], "second", pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 5, 5])],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)
    return model


FEEDS = [
    {"x": np.random.default_rng(seed).normal(0, 1, (1, 3, 5, 5)).astype(np.float32)}
    for seed in range(8)
]


def _run(model: ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


def _weight(model: ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=CHANNELS, max_size=CHANNELS),
    st.lists(st.floats(1.0, 2.0), min_size=CHANNELS, max_size=CHANNELS),
)
def test_cut_channels_keep_the_function(
    pair: ModelProto, pieces: list[int], finer: list[float]
) -> None:
    exact = Split(
        reader="second", ceiling=CEILING, pieces=np.array(pieces), gains=np.array(pieces, float)
    )
    wide = widen(pair, {"first": exact})
    assert len(_weight(wide, "w1")) == sum(pieces)
    for feed in FEEDS[:2]:  # whatever is seen, also beyond the ceiling
        np.testing.assert_allclose(_run(wide, feed), _run(pair, feed), atol=1e-4)
    higher = replace(exact, gains=exact.gains * np.array(finer))
    calm = {"x": 0.05 * FEEDS[0]["x"]}  # gains that leave room for half the range only
    assert observe(pair, ["c"], [calm])["c"][0].max() < CEILING / 2
    np.testing.assert_allclose(
        _run(widen(pair, {"first": higher}), calm), _run(pair, calm), atol=1e-4
    )


def test_plan_finds_the_pair_and_stays_within_its_budget(pair: ModelProto) -> None:
    plan = plan_splits(pair, FEEDS, extra=0.5)
    assert list(plan) == ["first"]
    split = plan["first"]
    assert split.reader == "second"
    assert CHANNELS <= split.pieces.sum() <= CHANNELS * 3 // 2
    wide = widen(pair, plan)
    for feed in FEEDS:
        np.testing.assert_allclose(_run(wide, feed), _run(pair, feed), atol=1e-3)


def test_more_pieces_leave_less_noise() -> None:
    random = np.random.default_rng(1)
    maps = np.minimum(random.exponential(0.3, (4000, 8)) * random.uniform(0.5, 6, 8), CEILING)
    weight = random.normal(0, 1, (4, 8, 3, 3))
    noise = []
    for num_extra in (0, 4, 8):
        pieces, gains = choose(maps, weight, CEILING, num_extra=num_extra)
        step = CEILING / 255 / gains
        rounded = np.minimum(np.round(maps / step), 255 * pieces) * step
        noise.append((np.square(weight).sum((0, 2, 3)) * np.square(rounded - maps).mean(0)).sum())
    assert noise[0] > 1.5 * noise[1] > 1.5**2 * noise[2]


def test_rounded_weights_are_found_again_by_their_largest(pair: ModelProto) -> None:
    gains = np.linspace(1, 3, CHANNELS)
    rounded = round_weights(pair, FEEDS, {"second": gains})
    for name, scale in (("w1", np.ones(3)), ("w2", gains)):
        weight = _weight(rounded, name) / scale[:, None, None]
        step = np.abs(weight).max((1, 2, 3), keepdims=True) / 127
        np.testing.assert_allclose(weight / step, np.round(weight / step), atol=2e-3)
        exact = _weight(pair, name) / scale[:, None, None]
        assert np.abs(weight - exact).max() < 8 * step.max()


def test_rounding_that_makes_good_beats_rounding_to_the_nearest() -> None:
    random = np.random.default_rng(2)
    maps = [np.repeat(np.repeat(random.exponential(1, (1, 8, 6, 6)), 2, 2), 2, 3) for _ in range(4)]
    moment = second_moment(maps, 3)
    weight = random.normal(0, 1, (5, 72)) ** 3  # few large ones: coarse steps
    steps = np.abs(weight).max(1, keepdims=True) / 127
    nearest = np.round(weight / steps) * steps
    made_good = gptq(weight, moment, np.ones(72))

    def error(other: np.ndarray) -> float:
        return float(np.trace((other - weight) @ moment @ (other - weight).T))

    assert error(made_good) < 0.7 * error(nearest)
