"""The sum comes out exactly, whoever vanishes, and what does not fit is refused."""

import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("Crypto", reason="./scripts/setup federate")

from veilcam.model.federate_ring import RangeError, Ring, noise_share, sum_bound
from veilcam.model.federate_secagg import (
    AggregationError,
    Assembly,
    Keys,
    Member,
    neighbours_of,
    num_shares_needed,
)

CONTEXT = b"test/0"


def aggregate(
    num: int, degree: int, size: int = 5, *, no_share: set[int] | None = None,
    no_mask: set[int] | None = None, no_unmask: set[int] | None = None,
) -> tuple[np.ndarray, np.ndarray, Assembly]:  # fmt: skip
    """One round; returns what came out, what should, and the server's side."""
    names = [f"n{i}" for i in range(num)]
    members = {name: Member(name, CONTEXT) for name in names}
    server = Assembly(CONTEXT, {n: m.announce() for n, m in members.items()}, degree)

    def left(gone: set[int] | None, among: list[str]) -> list[str]:
        return [n for n in among if int(n[1:]) not in (gone or set())]

    for name in left(no_share, names):
        server.take_shares(name, members[name].share(server.partners(name)))
    random, expected = np.random.default_rng(num), np.zeros(size, np.uint32)
    for name in left(no_mask, server.sharers):
        vector = random.integers(0, 2**32, size, dtype=np.uint32)
        masked = members[name].mask(vector, server.sealed_for(name))
        assert not np.array_equal(masked, vector)
        server.take_masked(name, masked)
        expected = expected + vector
    told = {n: members[n].unmask(*server.fates(n)) for n in left(no_unmask, server.alive)}
    return server.unmask(told), expected, server


@settings(max_examples=15)
@given(st.integers(2, 7), st.integers(1, 8))
def test_the_sum_is_exact_with_any_graph(num: int, degree: int) -> None:
    got, expected, _ = aggregate(num, degree)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("stage", ["no_share", "no_mask", "no_unmask"])
@pytest.mark.parametrize("gone", [{0}, {1, 4}])
def test_who_vanishes_at_any_stage_does_not_spoil_the_sum(stage: str, gone: set[int]) -> None:
    got, expected, server = aggregate(7, 6, **{stage: gone})
    assert np.array_equal(got, expected)
    assert len(server.alive) == (7 if stage == "no_unmask" else 7 - len(gone))


def test_three_nodes_live_with_one_gone_but_not_with_two() -> None:
    got, expected, _ = aggregate(3, 2, no_mask={1})
    assert np.array_equal(got, expected)
    with pytest.raises(AggregationError, match="1 of the 2 shares needed"):
        aggregate(3, 2, no_mask={0}, no_unmask={2})


def test_a_masked_vector_is_uniform_whatever_it_hides() -> None:
    members = {n: Member(n, CONTEXT) for n in "ab"}
    server = Assembly(CONTEXT, {n: m.announce() for n, m in members.items()}, 2)
    for name, member in members.items():
        server.take_shares(name, member.share(server.partners(name)))
    masked = members["a"].mask(np.zeros(65536, np.uint32), server.sealed_for("a"))
    counts = np.bincount(masked >> 24, minlength=256)
    chi = ((counts - 256) ** 2 / 256).sum()
    assert 160 < chi < 380  # 255 degrees of freedom: 1e-6 on both sides
    plain = np.bincount(np.zeros(65536, np.uint32) >> 24, minlength=256)
    assert ((plain - 256) ** 2 / 256).sum() > 1e6  # the control: not masked


def test_no_two_stories_about_a_node() -> None:
    names = [f"n{i}" for i in range(5)]
    members = {n: Member(n, CONTEXT) for n in names}
    server = Assembly(CONTEXT, {n: m.announce() for n, m in members.items()}, 4)
    for name, member in members.items():
        server.take_shares(name, member.share(server.partners(name)))
    for name, member in members.items():
        server.take_masked(name, member.mask(np.zeros(3, np.uint32), server.sealed_for(name)))
    with pytest.raises(AggregationError, match="both alive and dead"):
        members["n0"].unmask(names, ["n1"])
    with pytest.raises(AggregationError, match="each comes once"):
        members["n0"].unmask(names, [])  # the refused attempt was the one
    assert 2 * num_shares_needed(5) > 5  # so two stories can't both find enough holders
    with pytest.raises(AggregationError, match="too few partners are alive"):
        members["n1"].unmask(["n1"], ["n0", "n2", "n3", "n4"])


def test_keys_and_shares_that_were_swapped_are_refused() -> None:
    members = {n: Member(n, CONTEXT) for n in "abc"}
    keys = {n: m.announce() for n, m in members.items()}
    server = Assembly(CONTEXT, keys, 2)
    stranger = Member("x", CONTEXT).announce()
    with pytest.raises(AggregationError, match="lack this node's own keys"):
        members["a"].share({"a": Keys(stranger.mask, keys["a"].seal), "b": keys["b"]})
    for name in "bc":
        server.take_shares(name, members[name].share(server.partners(name)))
    boxes = server.sealed_for("b")
    torn = {n: box[:-1] + bytes([box[-1] ^ 1]) for n, box in boxes.items()}
    with pytest.raises(AggregationError, match="changed on their way"):
        members["b"].mask(np.zeros(3, np.uint32), torn)
    with pytest.raises(AggregationError, match="others than the neighbours"):
        server.take_shares("a", {"a": b""})


@given(st.integers(2, 40), st.integers(1, 12))
def test_the_graph_is_mutual_and_everybody_holds_itself(num: int, degree: int) -> None:
    graph = neighbours_of([str(i) for i in range(num)], degree)
    for name, others in graph.items():
        assert name in others
        assert all(name in graph[other] for other in others)
        assert len(others) <= max(degree, 2) + 1


RING = Ring(limit=3.0, max_nodes=100)


@given(st.lists(st.floats(-2.9, 2.9, allow_subnormal=False), min_size=1, max_size=20))
def test_rounding_never_lengthens_and_the_sum_comes_back(values: list[float]) -> None:
    vector = np.array(values)
    whole = RING.encode(vector, np.zeros_like(vector))
    back = RING.decode(whole, 1)
    assert np.linalg.norm(back) <= np.linalg.norm(vector) * (1 + 1e-15)
    assert np.abs(back - vector).max() <= RING.step
    hundred = np.asarray(whole.astype(np.int64) * 100, np.int64).astype(np.uint32)
    assert np.abs(RING.decode(hundred, 100) - 100 * vector).max() <= 100 * RING.step


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.01, -1e300])
def test_what_does_not_fit_is_refused_not_wrapped(bad: float) -> None:
    for clipped, noise in ((bad, 0.0), (0.0, bad)):
        with pytest.raises(RangeError, match="1 of 2 numbers are beyond"):
            RING.encode(np.array([0.1, clipped]), np.array([0.0, noise]))


def test_a_sum_that_wrapped_is_refused() -> None:
    most = RING.encode(np.full(3, 2.999), np.zeros(3))
    with pytest.raises(RangeError, match="beyond what they may send"):
        RING.decode(most + most, 1)
    with pytest.raises(RangeError, match="holds 1 to 100"):
        RING.decode(most, 101)


def test_any_min_nodes_shares_make_up_the_noise() -> None:
    random, size = np.random.default_rng(3), 20000
    shares = [noise_share(size, noise_stddev=2.0, min_nodes=5, random=random) for _ in range(8)]
    assert np.sum(shares[:5], axis=0).std() == pytest.approx(2.0, rel=0.03)
    for wrong in (2 / 3, 3 / 2):
        assert np.sum(shares[:5], axis=0).std() != pytest.approx(2.0 * wrong, rel=0.03)
    assert np.sum(shares, axis=0).std() > 2.0  # more survivors: more noise, never less


def test_honest_sums_stay_below_the_bound() -> None:
    random = np.random.default_rng(4)
    bound = sum_bound(num_nodes=8, l2_clip_norm=1.0, noise_stddev=2.0, min_nodes=5, size=30)
    for _ in range(300):
        parts = [noise_share(30, noise_stddev=2.0, min_nodes=5, random=random) for _ in range(8)]
        worst = np.zeros(30)
        worst[0] = 8.0
        assert np.linalg.norm(worst + np.sum(parts, axis=0)) < bound
    assert bound < 8 + 2 * 2.0 * (8 / 5) ** 0.5 * 30**0.5 * 2  # and it says something


def test_flowers_own_masks_have_32_bits() -> None:
    """Why its SecAgg+ is not used: seeds that fold to the same word make the same mask."""
    pytest.importorskip("flwr", reason="./scripts/setup federate")
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    seed = secrets.token_bytes(32)
    words = np.frombuffer(seed, "<u4")
    folded = int(np.bitwise_xor.reduce(words)).to_bytes(4, "little") + bytes(28)
    assert seed != folded
    ours, theirs = (pseudo_rand_gen(s, 2**32, [(50,)])[0] for s in (seed, folded))
    assert np.array_equal(ours, theirs)
