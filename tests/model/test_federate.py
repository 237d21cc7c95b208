"""Rounds in one process: accounted, bounded, refused where they must be, resumed."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy.stats import norm

pytest.importorskip("Crypto", reason="./scripts/setup federate")

from veilcam.camera.errors import ConfigError, InputError
from veilcam.model import federate_share
from veilcam.model.federate import Federation, read_federation
from veilcam.model.federate_attack import cosines, inverted, ranks
from veilcam.model.federate_fleet import LocalFleet, auc, train_plain, updates_of
from veilcam.model.federate_node import Payload
from veilcam.model.federate_rounds import LOG, Conductor, FederationStopped
from veilcam.model.federate_task import Head, MomentsTask
from veilcam.model.ledger import read_entries
from veilcam.model.privacy import RELATION, epsilon_of
from veilcam.model.private_data import PrivacyError, PrivateSet

SIZE = 3
PUBLIC = np.random.default_rng(1).normal(0, 1, (60, SIZE)).astype(np.float32)
FED = Federation(
    name="test", num_nodes=4, epsilon=20.0, delta=1e-3, rounds=6, feature_size=SIZE, min_nodes=2,
    max_nodes=10, l2_clip_norm=0.5, learning_rate=0.5,
)  # fmt: skip


def camera(index: int, num: int = 8) -> PrivateSet:
    random = np.random.default_rng(index)
    rows = random.normal([1.5, 0, 0], 1, (num, SIZE)).astype(np.float32)
    return PrivateSet({"x": rows}, [f"{index}/{i}" for i in range(num)])


@lru_cache
def head_of(federation: Federation) -> Head:
    return Head(federation, PUBLIC)  # one for all tests: each is compiled


class Rig:
    """A fleet and its server; `broken` may stand between."""

    def __init__(self, folder: Path, federation: Federation = FED) -> None:
        self.federation, self.folder = federation, folder
        self.head = head_of(federation)
        cameras: list[PrivateSet | None] = [camera(i) for i in range(federation.num_nodes)]
        self.fleet = LocalFleet(federation, self.head, cameras, folder / "nodes")
        self.seen: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.broken: Callable[[str, Mapping[str, Any]], Payload | None] | None = None
        self.conductor = self.serve()

    def serve(self) -> Conductor:
        return Conductor(
            self.federation, self.head, self.fleet.roster, self.folder / "s", self.exchange
        )

    def exchange(self, messages: Mapping[str, Payload], timeout_s: float) -> dict[str, Payload]:
        replies = {}
        for name, message in messages.items():
            reply = self.broken(name, message) if self.broken else {}
            if reply is None:
                continue
            replies[name] = reply or self.fleet.nodes[name].handle(message)
            self.seen.append((name, message, replies[name]))
        return replies

    def round(self) -> Any:
        return self.conductor.round(self.fleet.roster.names)

    def lie(self, index: int, vector: Callable[[np.ndarray], np.ndarray]) -> None:
        """The node sends these real numbers instead of its update."""
        node = self.fleet.nodes[self.fleet.roster.names[index]]
        step = self.federation.ring.step

        def contribution(params: np.ndarray, stage: Any, permit: Any) -> np.ndarray:
            whole = np.nan_to_num(np.rint(vector(params) / step), nan=2**31)
            return whole.astype(np.int64).astype(np.uint32)

        node._contribution = contribution  # type: ignore[assignment]

    def close(self) -> None:
        self.conductor.close()
        self.fleet.__exit__()


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    made = Rig(tmp_path)
    yield made
    made.close()


def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federate_share, "noise_share", lambda size, **_: np.zeros(size))


# accounting


@pytest.mark.parametrize(("prob", "rounds", "sigma"), [(1.0, 3, 2.0), (0.1, 20, 1.1)])
def test_both_views_equal_dp_accounting_on_hand_made_schedules(
    prob: float, rounds: int, sigma: float
) -> None:
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    step = dp_accounting.PoissonSampledDpEvent(prob, gaussian) if prob < 1 else gaussian
    by_hand = PLDAccountant(RELATION, 1e-3)
    by_hand.compose(step, rounds)
    epsilon = by_hand.get_epsilon(1e-5)
    made = Federation(
        name="x", num_nodes=100, sampling_prob=prob, rounds=rounds, epsilon=epsilon, delta=1e-5
    )
    assert made.mechanism.noise_multiplier == pytest.approx(sigma, rel=2e-3)
    assert made.plan.composed_epsilon == pytest.approx(epsilon, rel=2e-3)
    mine = made.node_plan().stages[0]
    for taken in (1, rounds):
        mu = math.sqrt(taken) / made.mechanism.noise_multiplier
        told = epsilon_of(mine.dp_event(taken), 1e-5)
        delta = norm.cdf(-told / mu + mu / 2) - math.exp(told) * norm.cdf(-told / mu - mu / 2)
        assert delta == pytest.approx(1e-5, rel=0.02)  # the exact curve of the Gaussian


@pytest.mark.parametrize("cap", [1.0, 9.0, 99.0])
def test_a_cap_buys_as_many_rounds_as_it_can_and_never_more(cap: float) -> None:
    whole = FED.node_plan().stages[0]
    one = epsilon_of(whole.dp_event(1), FED.delta)
    if cap < one:
        with pytest.raises(ConfigError, match="allows no round"):
            FED.node_plan(cap)
        return
    rounds = FED.node_plan(cap).stages[0].iterations
    assert epsilon_of(whole.dp_event(rounds), FED.delta) <= cap
    if rounds < FED.rounds:
        assert epsilon_of(whole.dp_event(rounds + 1), FED.delta) > cap


def test_dropped_rounds_are_paid_by_the_fleet_and_by_who_took_part(rig: Rig) -> None:
    names = rig.fleet.roster.names
    rig.broken = lambda name, message: (
        None if message["stage"] == "mask" and name != names[0] else {}
    )
    report = rig.round()
    assert report.outcome.startswith("dropped: 1 nodes are left, 2 are needed")
    assert (rig.conductor.paid, rig.conductor.applied) == (1, 0)
    spent = [n.ledger.spent(n._stage) for n in rig.fleet.nodes.values()]
    assert spent == [1, 0, 0, 0]
    rig.broken = None
    assert rig.round().outcome == "applied"
    told = rig.conductor.ledger.promise()
    assert (told["unit"], told["stages"][0]["iterations"]) == ("camera", 2)


def test_a_spent_cap_is_kept_and_said(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    name = rig.fleet.roster.names[0]
    one = epsilon_of(FED.node_plan().stages[0].dp_event(1), FED.delta)
    old = rig.fleet.nodes[name]
    old.close()
    rig.fleet.nodes[name] = type(old)(
        FED, rig.head, old.identity, rig.fleet.roster, people=camera(0), folder=tmp_path / "n0",
        max_epsilon=one * 1.01,
    )  # fmt: skip
    assert rig.round().summed == 4
    report = rig.round()
    assert report.summed == 3
    assert "cap of epsilon" in report.refusals[name]
    assert read_entries(tmp_path / "n0" / "ledger.json")[0]["spent"] == 1
    rig.close()


# training


def test_a_fleet_learns_what_no_camera_could_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    reports = list(rig.conductor.run())
    assert [r.outcome for r in reports] == ["applied"] * 6
    lines = (tmp_path / "s" / LOG).read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [1, 2, 3, 4, 5, 6]
    random = np.random.default_rng(9)
    people = random.normal([1.5, 0, 0], 1, (400, SIZE)).astype(np.float32)
    public = random.normal(0, 1, (400, SIZE)).astype(np.float32)
    scores = [rig.head.scores(rig.conductor.result, x) for x in (people, public)]
    assert auc(*scores) > 0.7
    with pytest.raises(PrivacyError, match="all 6 planned steps are spent"):
        rig.round()
    rig.close()


def test_without_noise_the_rounds_are_plain_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_noise(monkeypatch)
    rig = Rig(tmp_path)
    list(rig.conductor.run())
    rows = [np.random.default_rng(i).normal([1.5, 0, 0], 1, (8, SIZE)) for i in range(4)]
    plain = train_plain(
        FED, rig.head, [r.astype(np.float32) for r in rows], noise_stddev=0.0,
        random=np.random.default_rng(0),
    )  # fmt: skip
    assert np.abs(rig.conductor.result - plain).max() < 1e-5
    rig.close()


def test_the_noise_of_a_sum_is_at_least_what_is_accounted(tmp_path: Path) -> None:
    fed = replace(FED, feature_size=400, min_nodes=3)
    head = Head(fed, np.zeros((2, 400), np.float32))
    with LocalFleet(fed, head, [None] * 4, tmp_path / "nodes") as fleet:

        def late(messages: Mapping[str, Payload], timeout_s: float) -> dict[str, Payload]:
            gone = (
                fleet.roster.names[3:]
                if any(m["stage"] == "mask" for m in messages.values())
                else []
            )
            return {n: fleet.nodes[n].handle(m) for n, m in messages.items() if n not in gone}

        with Conductor(fed, head, fleet.roster, tmp_path / "s", late) as conductor:
            assert conductor.round(fleet.roster.names).summed == 3  # one of four is lost
            got = conductor.params.std() * fed.expected_nodes
    assert got == pytest.approx(fed.noise_stddev, rel=0.2)
    for wrong in (2 / 3, 3 / 2):
        assert got != pytest.approx(fed.noise_stddev * wrong, rel=0.2)


def test_moments_come_back_in_one_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_noise(monkeypatch)
    fed = replace(FED, task="moments", rounds=1, l2_clip_norm=1.0)
    task = MomentsTask(fed)
    rows = np.random.default_rng(2).normal(0.3, 0.5, (4, 50, SIZE)).astype(np.float32)
    cameras: list[PrivateSet | None] = [
        PrivateSet({"x": r}, [str(i) for i in range(50)]) for r in rows
    ]
    with (
        LocalFleet(fed, task, cameras, tmp_path / "nodes") as fleet,
        Conductor(fed, task, fleet.roster, tmp_path / "s", fleet.exchange) as conductor,
    ):
        list(conductor.run())
        mean, covariance = task.moments(conductor.params)
    inside = rows.reshape(-1, SIZE)
    inside = inside / np.maximum(np.linalg.norm(inside, axis=1, keepdims=True) / SIZE**0.5, 1)
    assert np.abs(mean - inside.mean(0)).max() < 1e-4
    assert np.abs(covariance - np.cov(inside.T, bias=True)).max() < 1e-3


# liars


def test_a_scaled_update_is_refused_and_changes_nothing(rig: Rig) -> None:
    rig.lie(1, lambda params: np.full_like(params, 100.0))
    report = rig.round()
    assert report.outcome.startswith("refused: the sum")
    assert not rig.conductor.params.any()
    assert rig.conductor.paid == 1  # the server saw that sum


def test_not_a_number_is_refused_by_an_honest_node_and_by_the_server(rig: Rig) -> None:
    rig.lie(1, lambda params: np.full_like(params, np.nan))
    assert rig.round().outcome.startswith("refused: the sum")
    assert np.isfinite(rig.conductor.params).all()


def test_a_sum_that_keeps_being_refused_stops_the_federation(rig: Rig) -> None:
    rig.lie(2, lambda params: np.full_like(params, 50.0))
    for _ in range(4):
        rig.round()
    with pytest.raises(FederationStopped, match=r"5 sums in a row .* take it off the roster"):
        rig.round()


def test_a_sign_flip_moves_a_round_by_two_clip_norms_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_noise(monkeypatch)
    moved = []
    for is_honest in (True, False):
        rig = Rig(tmp_path / str(is_honest))
        if not is_honest:
            honest = rig.fleet.nodes[rig.fleet.roster.names[0]]._contribution

            def flipped(params: np.ndarray, stage: Any, permit: Any, own: Any = honest) -> Any:
                return (-own(params, stage, permit).astype(np.int64)).astype(np.uint32)

            rig.fleet.nodes[rig.fleet.roster.names[0]]._contribution = flipped  # type: ignore
        assert rig.round().outcome == "applied"
        moved.append(rig.conductor.params)
        rig.close()
    change = np.linalg.norm(moved[0] - moved[1])
    assert 0 < change <= 2 * FED.l2_clip_norm / FED.expected_nodes + 1e-6


def test_broken_replies_cost_their_node_and_nobody_else(rig: Rig) -> None:
    bad: list[Payload] = [
        {"status": "ok"},
        {"status": "ok", "names": ["x"], "boxes": []},
        {"status": "ok", "vector": b"123"},
        {"status": "ok", "vector": b"1234"},
        {"status": "ok", "mask": b"1", "seal": b"2", "signature": b"3"},
    ]
    name = rig.fleet.roster.names[3]
    for stage in ("announce", "share", "mask"):
        for payload in bad[:2] if rig.conductor.paid > 3 else bad:
            if rig.conductor.paid >= FED.rounds:
                return
            rig.broken = lambda who, message, s=stage, p=payload: (  # type: ignore[misc]
                dict(p) if who == name and message["stage"] == s else {}
            )
            report = rig.round()
            assert report.outcome == "applied"
            assert report.summed == 3
            assert name in report.refusals


# versions, keys, duty


def test_version_skew_is_refused_with_both_versions_said(rig: Rig) -> None:
    name = rig.fleet.roster.names[0]
    rig.fleet.nodes[name].federation = replace(FED, learning_rate=0.4)
    report = rig.round()
    assert report.summed == 3
    assert "not those this node's owner agreed to" in report.refusals[name]
    node = rig.fleet.nodes[rig.fleet.roster.names[1]]
    hello = {"stage": "announce", "context": b"x", "fingerprint": FED.fingerprint, "protocol": 99}
    told = node.handle(hello)
    assert told["status"] == "refused"
    assert "protocol 99 and this node 1; bring both to the same version" in told["reason"]
    assert "unknown stage" in node.handle({"stage": "run_code"})["reason"]
    assert "malformed" in node.handle({"stage": "announce"})["reason"]


def test_keys_of_strangers_are_refused_on_both_sides(rig: Rig) -> None:
    names = rig.fleet.roster.names
    thief = rig.fleet.nodes[names[0]]
    thief.identity = replace(thief.identity, name=names[1])  # another's name, its own key
    report = rig.round()
    assert "not signed by the registered node" in report.refusals[names[0]]
    assert report.summed == 3


def test_off_duty_is_a_reason_and_no_fault(rig: Rig) -> None:
    name = rig.fleet.roster.names[2]
    rig.fleet.nodes[name]._duty = lambda: "somebody was seen 3 s ago"
    report = rig.round()
    assert report.outcome == "applied"
    assert report.refusals == {name: "off duty: somebody was seen 3 s ago"}
    assert rig.fleet.nodes[name].rounds_left == FED.rounds


def test_somebody_who_comes_in_mid_round_ends_duty_before_anything_is_spent(rig: Rig) -> None:
    node = rig.fleet.nodes[rig.fleet.roster.names[2]]
    told = iter([None, "the loop was late 2 s ago"])  # at announce, at mask
    node._duty = lambda: next(told)
    report = rig.round()
    assert (report.outcome, report.summed) == ("applied", 3)
    assert report.refusals == {node.identity.name: "off duty: the loop was late 2 s ago"}
    assert node.rounds_left == FED.rounds


def test_a_node_keeps_its_masks_when_too_few_are_in_the_sum(rig: Rig) -> None:
    rig.broken = lambda name, message: (
        {} if message["stage"] != "unmask" else message.update(num_alive=1) or {}  # type: ignore
    )
    report = rig.round()
    assert report.outcome.startswith("dropped: 0 of the 3 shares needed")
    assert not rig.conductor.params.any()


# a server that dies


@pytest.mark.parametrize("stage", ["share", "mask", "unmask"])
def test_a_server_killed_in_mid_round_goes_on_and_over_counts(rig: Rig, stage: str) -> None:
    assert rig.round().outcome == "applied"
    before = rig.conductor.params

    def die(name: str, message: Mapping[str, Any]) -> Payload | None:
        if message["stage"] == stage:
            raise KeyboardInterrupt
        return {}

    rig.broken = die
    with pytest.raises(KeyboardInterrupt):
        rig.round()
    rig.conductor.close()
    rig.broken, rig.conductor = None, rig.serve()
    assert (rig.conductor.paid, rig.conductor.applied) == (2, 1)
    assert np.array_equal(rig.conductor.params, before)
    reports = list(rig.conductor.run())
    assert [r.index for r in reports] == [3, 4, 5, 6]
    assert all(r.outcome == "applied" for r in reports)


def test_state_of_other_settings_and_a_second_server_are_refused(rig: Rig) -> None:
    rig.round()
    with pytest.raises(PrivacyError, match="another run is spending"):
        rig.serve()
    rig.conductor.close()
    rig.federation = replace(FED, server_rate=0.5)
    with pytest.raises(PrivacyError, match="other settings"):
        rig.serve()
    rig.federation = replace(FED, num_nodes=5)
    with pytest.raises(PrivacyError, match="roster has 4 nodes"):
        rig.serve()


# what the server sees


def test_the_wire_holds_known_fields_and_no_features(rig: Rig) -> None:
    rig.round()
    known = {
        "announce": {"status", "name", "mask", "seal", "signature"},
        "share": {"status", "name", "names", "boxes"},
        "mask": {"status", "name", "vector"},
        "unmask": {"status", "name", "names", "shares"},
    }
    features = [
        np.random.default_rng(i).normal([1.5, 0, 0], 1, (8, SIZE)).astype(np.float32)
        for i in range(4)
    ]
    needles = [row.tobytes() for rows in features for row in rows]
    needles += [number.tobytes() for rows in features for number in rows.reshape(-1)]
    sent = b""
    for _, message, reply in rig.seen:
        assert set(reply) == known[message["stage"]]
        for value in reply.values():
            parts = value if isinstance(value, list) else [value]
            sent += b"".join(p if isinstance(p, bytes) else str(p).encode() for p in parts)
    assert len(rig.seen) == 16
    assert not any(needle in sent for needle in needles)
    assert needles[0] in sent + features[0].tobytes()  # the control: the search finds a leak


def test_a_curious_server_finds_people_in_plain_updates_only(tmp_path: Path) -> None:
    fed = replace(FED, num_nodes=12, max_nodes=20, feature_size=8)
    random = np.random.default_rng(5)
    gallery = random.normal(0.5, 1, (300, 8)).astype(np.float32)
    head = Head(fed, random.normal(0, 1, (60, 8)).astype(np.float32))
    cameras: list[PrivateSet | None] = [
        PrivateSet({"x": gallery[i : i + 1]}, [str(i)]) for i in range(12)
    ]
    masked: list[np.ndarray] = []
    with LocalFleet(fed, head, cameras, tmp_path / "nodes") as fleet:

        def tapped(messages: Mapping[str, Payload], timeout_s: float) -> dict[str, Payload]:
            replies = fleet.exchange(messages, timeout_s)
            masked.extend(
                np.frombuffer(r["vector"], "<i4").astype(float) * fed.ring.step
                for r in replies.values() if "vector" in r
            )  # fmt: skip
            return replies

        with Conductor(fed, head, fleet.roster, tmp_path / "s", tapped) as conductor:
            start = conductor.params
            conductor.round(fleet.roster.names)
    updates = updates_of(fed, head, start, list(gallery[:, None]))
    truth = np.arange(12)
    assert (ranks(updates[:12], updates, truth) == 1).all()  # the control must fire
    behind = ranks(np.stack(masked), updates, truth)
    assert (behind == 1).sum() <= 2  # chance is 12/300; more than 2 has a chance of 1e-5
    assert 40 < np.median(behind) < 260
    people = gallery[:12]  # now the attacker knows nobody, and paints the person from the update
    control = cosines(inverted(head, start, updates[:12], 8), people)
    assert np.median(control) > 0.95  # the control must fire
    assert np.mean(control > 0.9) >= 0.7
    strangers = cosines(np.roll(people, 1, axis=0), people)
    given = cosines(inverted(head, start, np.stack(masked), 8), people)
    assert given.mean() < strangers.mean() + 3 * strangers.std() / 12**0.5
    assert (given > 0.9).sum() <= 1


# configuration


def test_settings_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    good = '[federation]\nname = "a"\nnum_nodes = 10\nepsilon = 8\ndelta = 1e-5\n'
    path.write_text(good)
    assert read_federation(path).epsilon == 8.0
    assert read_federation(path).fingerprint != replace(FED).fingerprint
    for text, match in (
        (good + "clip = 1.0\n", "unknown key 'clip'"),
        (good + 'rounds = "many"\n', "rounds='many' has the wrong type"),
        (good + "rounds = true\n", "wrong type"),
        (good.replace("epsilon = 8\n", ""), r"lacks \['epsilon'\]"),
        (good + "min_nodes = 1\n", "min_nodes=1 must be from 2"),
        (good + "min_nodes = 11\n", "most rounds would be dropped"),
        (good + 'task = "faces"\n', "allowed: head, moments"),
        (good + 'task = "moments"\n', "one round of everybody"),
        (good.replace("1e-5", "0.5"), "delta=0.5"),
        (good + "momentum = 1.0\n", "momentum must be in"),
        ("[other]\n", "federation"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=match):
            read_federation(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_federation(tmp_path / "none.toml")


def test_public_features_are_checked(tmp_path: Path) -> None:
    from veilcam.model.federate_task import load_public

    np.savez(tmp_path / "public.npz", x=np.zeros((5, 2), np.float32))
    with pytest.raises(InputError, match=r"shape \(5, 2\); wanted \(n, 3\)"):
        load_public(tmp_path / "public.npz", FED)
    with pytest.raises(InputError, match="wanted public features"):
        load_public(tmp_path / "none.npz", FED)


# groups


GROUPS = replace(FED, num_nodes=10, groups=5, epsilon=60.0)


def test_groups_are_of_one_size_and_do_not_depend_on_who_was_drawn() -> None:
    names = [f"n{index}" for index in range(10)]
    whole = GROUPS.grouped(names, names, 3)
    assert [len(group) for group in whole] == [2] * 5
    assert sorted(name for group in whole for name in group) == sorted(names)
    some = GROUPS.grouped(names, names[::2], 3)
    assert [[n for n in group if n in names[::2]] for group in whole] == some
    assert GROUPS.grouped(names, names, 4) != whole
    for wrong in ({"groups": 2}, {"groups": 0}, {"groups": 7}):
        with pytest.raises(ConfigError, match=r"must be odd|most rounds would be dropped"):
            replace(GROUPS, **wrong)  # type: ignore[arg-type]
    assert GROUPS.mechanism == replace(GROUPS, groups=1).mechanism  # epsilon is the same


def test_liars_in_few_groups_leave_the_step_between_the_honest_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_noise(monkeypatch)
    rig = Rig(tmp_path, GROUPS)
    names = rig.fleet.roster.names
    groups = GROUPS.grouped(names, names, 1)
    rig.lie(names.index(groups[0][0]), lambda params: np.full_like(params, 0.4))  # not clipped
    rig.lie(names.index(groups[1][0]), lambda params: np.full_like(params, np.nan))
    means, real = [], rig.conductor._sum

    def noted(members: list[str], *args: Any) -> Any:
        made = real(members, *args)
        means.append((members, made[0]))
        return made

    rig.conductor._sum = noted  # type: ignore[method-assign]
    report = rig.round()
    assert report.outcome == "applied"
    assert "group 1" in report.refusals
    honest = np.stack([mean for members, mean in means if members not in groups[:2]])
    lying = next(mean for members, mean in means if members == groups[0])
    assert len(honest) == 3
    assert (lying > honest.max(0)).any()
    assert (rig.conductor.params <= honest.max(0)).all()
    assert (rig.conductor.params >= honest.min(0)).all()
    rig.close()


def test_a_group_that_is_refused_is_named_and_half_of_them_stop_the_round(tmp_path: Path) -> None:
    rig = Rig(tmp_path, GROUPS)
    names = rig.fleet.roster.names
    groups = GROUPS.grouped(names, names, 1)
    for members in groups[:2]:
        rig.lie(names.index(members[0]), lambda params: np.full_like(params, np.nan))
    report = rig.round()
    assert report.outcome == "applied"
    assert groups[0][0] in report.refusals["group 0"]
    assert "the sum" in report.refusals["group 1"]
    rig.close()
    rig = Rig(tmp_path / "all", GROUPS)
    names = rig.fleet.roster.names
    for members in GROUPS.grouped(names, names, 1):  # one in each: two would cancel in the ring
        rig.lie(names.index(members[0]), lambda params: np.full_like(params, np.nan))
    before = rig.conductor.params
    assert rig.round().outcome.startswith("refused: the sum")
    assert rig.conductor.params is before
    rig.close()


def test_the_noise_of_a_median_is_what_is_stated(tmp_path: Path) -> None:
    fed = replace(FED, feature_size=400, num_nodes=10, min_nodes=2, groups=5)
    head = Head(fed, np.zeros((2, 400), np.float32))
    with (
        LocalFleet(fed, head, [None] * 10, tmp_path / "nodes") as fleet,
        Conductor(fed, head, fleet.roster, tmp_path / "s", fleet.exchange) as conductor,
    ):
        assert conductor.round(fleet.roster.names).summed == 10
        got = conductor.params.std()
    assert 0.8 * fed.mean_stddev < got < 1.1 * fed.mean_stddev
