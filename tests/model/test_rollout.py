"""A bundle goes out in stages: signed, watched, widened or taken back, over restarts."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("Crypto", reason="./scripts/setup federate")

from tests.model.rollout_rig import Rig, write_bundle
from veilcam.camera.errors import ConfigError, GraphError, InputError
from veilcam.camera.manifest import load_bundle
from veilcam.model.cli_federate import federate
from veilcam.model.rollout_ballot import (
    Count,
    detectable,
    is_in_stage,
    keep_probability,
    p_worse,
    randomized,
)
from veilcam.model.rollout_device import Audit, pulse_audit
from veilcam.model.rollout_offer import (
    PROTOCOL,
    Offer,
    OfferRefused,
    check,
    make_key,
    read_key,
    sign,
    trusted_key,
)
from veilcam.model.rollout_state import ReportRefused, Rules
from veilcam.model.rollout_web import Link, open_report, sign_report

# ballots


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_an_answer_is_local_dp_and_its_noise_can_be_taken_off(epsilon: float) -> None:
    keep = keep_probability(epsilon)
    assert keep / (1 - keep) == pytest.approx(math.exp(epsilon))  # the exact ratio of the channel
    kept = np.mean([randomized(True, epsilon) for _ in range(20_000)])
    assert kept == pytest.approx(keep, abs=0.015)
    assert np.mean([randomized(None, epsilon) for _ in range(20_000)]) == pytest.approx(
        0.5, abs=0.015
    )
    fails = sum(randomized(index < 6_000, epsilon) for index in range(20_000))
    value, low, high = Count(answers=20_000, fails=fails).rate(epsilon)
    assert value == pytest.approx(0.3, abs=0.06)
    assert low <= value <= high


def test_stages_are_nested_and_of_their_size() -> None:
    names = [f"device{index}" for index in range(4_000)]
    inside = [{n for n in names if is_in_stage(n, "ab", p)} for p in (0.0, 5.0, 25.0, 100.0)]
    assert [len(stage) / 40 for stage in inside] == pytest.approx([0, 5, 25, 100], abs=2)
    assert inside[1] < inside[2] < inside[3]
    assert inside[1] != {n for n in names if is_in_stage(n, "cd", 5.0)}  # others each time


def test_the_test_keeps_its_level_and_finds_what_it_says() -> None:
    random, epsilon, alpha = np.random.default_rng(0), 2.0, 0.05
    keep = keep_probability(epsilon)

    def rolled_back(new: float, former: float, size: int) -> float:
        def count(rate: float) -> Count:
            noisy = rate * keep + (1 - rate) * (1 - keep)
            return Count(answers=size, fails=int(random.binomial(size, noisy)))

        return float(np.mean([p_worse(count(new), count(former)) <= alpha for _ in range(400)]))

    assert rolled_back(0.1, 0.1, 60) <= alpha + 0.03
    rise = detectable(60, 60, epsilon=epsilon, alpha=alpha, base=0.1)
    assert 0.6 < rolled_back(0.1 + rise, 0.1, 60) < 0.95
    assert detectable(0, 9, epsilon=1.0, alpha=0.05) == math.inf


# offers

OFFER = Offer(
    sequence=3, bundle_sha256="ab", former_sha256="cd", files={"manifest.json": "ab"},
    local_epsilon=1.0, min_samples=5, patience_s=9.0,
)  # fmt: skip


def test_only_the_trusted_key_and_newer_offers_are_taken(tmp_path: Path) -> None:
    mine = trusted_key(make_key(tmp_path / "k"))
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    envelope = sign(OFFER, read_key(tmp_path / "k"))
    assert check(envelope, mine, 2) == OFFER
    make_key(tmp_path / "other")
    with pytest.raises(OfferRefused, match="not signed by the key this device trusts"):
        check(sign(OFFER, read_key(tmp_path / "other")), mine, 2)
    with pytest.raises(OfferRefused, match=r"sequence 3 is not above 3"):
        check(envelope, mine, 3)
    for broken in ({}, {"raw": "?", "signature": "?"}, {**envelope, "signature": ""}):
        with pytest.raises(OfferRefused):
            check(broken, mine, 2)
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        trusted_key("abc")
    with pytest.raises(InputError, match="no readable signing key"):
        read_key(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": PROTOCOL + 1}, f"protocol {PROTOCOL + 1} and this device {PROTOCOL}"),
        ({"schema_version": 99}, "schema_version 99 and this device reads"),
        ({"files": {"manifest.json": "ab", "../x": "cd"}}, "lists no bundle"),
        ({"files": {"manifest.json": "other"}}, "lists no bundle"),
    ],
)
def test_version_skew_is_refused_with_both_versions_said(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    mine = trusted_key(make_key(tmp_path / "k"))
    with pytest.raises(OfferRefused, match=told):
        check(sign(replace(OFFER, **change), read_key(tmp_path / "k")), mine, 0)


# rollouts


def test_a_good_bundle_reaches_everybody_by_stages(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.loops_say(0)
    said = rig.step()
    assert [said[n] for n in rig.names] == ["taken"] * 4 + ["watching"] * 4
    rig.loops_say(0)
    assert set(rig.step().values()) == {"watching"}
    rig.loops_say(9)
    rig.step()
    assert rig.rollout.percent == 50
    rig.loops_say(10)
    rig.step()
    assert rig.rollout.percent == 100
    assert rig.running.count(rig.new) == 4
    rig.step()
    rig.loops_say(0)
    rig.step()
    rig.loops_say(10)
    rig.step()
    assert rig.rollout.state.status == "done"
    assert rig.running == [rig.new] * 8
    for name in rig.names:
        current = tmp_path / "devices" / name / "current.veil"
        assert load_bundle(current).sha256 == rig.new
    told = rig.rollout.status()
    assert [d["outcome"] for d in told["decisions"]] == ["widened to 100 %", "done"]
    assert told["local_dp"] == {"unit": "device", "epsilon_per_answer": 15.0, "most_answers": 2}


def test_a_worse_bundle_is_taken_back_and_offered_to_nobody_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.step()
    for samples in (0, 10):
        rig.loops_say(samples, bad=rig.new)
        rig.step()
    assert rig.rollout.state.status == "rolled_back"
    said = rig.step()
    assert [said[n] for n in rig.names[:4]] == ["went back"] * 4
    assert rig.running == [rig.old] * 8
    assert load_bundle(tmp_path / "devices" / rig.names[0] / "current.veil").sha256 == rig.old
    assert set(rig.step().values()) == {"rolled back; nothing to do"}


def test_devices_that_fall_silent_count_as_failed(tmp_path: Path) -> None:
    rules = Rules(stages=(50.0, 100.0), min_reports=2, quorum=1.0, silence_s=100.0)
    rig = Rig(tmp_path, rules=rules, patience_s=1e6)
    rig.step()
    for name in rig.names[:4]:  # the new bundle killed them
        rig.devices.pop(name)
    rig.loops_say(0)
    rig.step()
    rig.loops_say(10)
    rig.step()
    rig.rollout.tick()
    assert rig.rollout.state.status == "running"
    rig.now_s += 101
    rig.rollout.tick()
    assert rig.rollout.state.status == "rolled_back"
    assert rig.rollout.status()["silent"] == 4


def test_server_and_devices_that_are_killed_go_on_in_mid_stage(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.loops_say(0)
    rig.step()
    rig.loops_say(0)
    rig.step()
    rig.loops_say(10)
    first = rig.names[0]
    rig.devices[first].step()
    before = rig.rollout.state
    answer = rig.devices[first].state.answers
    rig.restart_server()
    rig.devices = {who.name: rig.device(who) for who in rig.identities}
    assert rig.rollout.state == before
    assert rig.devices[first].state.answers == answer
    rig.step()
    assert rig.rollout.percent == 100
    verdicts = [name for name, told in rig.sent if told["kind"] == "verdict"]
    assert sorted(verdicts) == sorted(rig.names)  # everybody once


def test_an_answer_is_drawn_once_and_sent_until_it_arrives(tmp_path: Path) -> None:
    rig = Rig(tmp_path, local_epsilon=0.01)
    name = rig.names[-1]
    device = rig.devices[name]
    rig.loops_say(0)
    device.step()
    rig.loops_say(10)
    report = device._link.report

    def lost(told: Any) -> None:
        raise ReportRefused("lost on its way")

    device._link.report = lost  # type: ignore[method-assign]
    for _ in range(30):
        with pytest.raises(ReportRefused):
            device.step()
    assert device.state.spent_epsilon == pytest.approx(0.01)
    kept = dict(device.state.answers)
    device._link.report = report  # type: ignore[method-assign]
    assert device.step() == "answered"
    assert rig.rollout.state.answers[name] == kept
    with pytest.raises(ReportRefused, match="answers once"):
        rig.rollout.report(
            name,
            {"kind": "verdict", "sequence": 1, "arm": "former", "has_failed": not kept["former"]},
        )


def test_who_saw_nobody_throws_a_coin_when_patience_is_over(tmp_path: Path) -> None:
    rig = Rig(tmp_path, num=40, rules=Rules(stages=(50.0, 100.0), min_reports=20, quorum=1.0))
    rig.step()
    rig.step()
    rig.now_s += 51
    rig.step()
    new, former, silent = rig.rollout.counts()
    assert (new.answers, former.answers, silent) == (20, 20, 0)
    assert 5 <= new.fails + former.fails <= 35  # 6e-7 outside
    assert rig.devices[rig.names[0]].state.answers.keys() == {"new"}


def test_a_spent_device_and_one_with_another_bundle_say_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    who = rig.identities[-1]
    spent = rig.device(who, max_epsilon=14.0)
    rig.loops_say(0)
    spent.step()
    rig.loops_say(10)
    assert "it says nothing more" in spent.step()
    assert who.name not in rig.rollout.state.answers
    assert "spent epsilon" in rig.rollout.state.refused[who.name]
    other = rig.devices[rig.names[-2]]
    other.state.current = "x" * 64
    assert other.step() == "runs neither bundle; says nothing"


def test_a_stranger_a_forger_and_a_double_answer_are_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    told = {"kind": "taken", "sequence": 1}
    body = sign_report(rig.identities[0], told)
    assert open_report(rig.roster, body) == (rig.names[0], told)
    thief = replace(rig.identities[1], name=rig.names[0])
    for bad in (sign_report(thief, told), body[:-5], b"[]"):
        with pytest.raises(ReportRefused):
            open_report(rig.roster, bad)
    with pytest.raises(ReportRefused, match="has not taken it"):
        rig.rollout.report(
            rig.names[0], {"kind": "verdict", "sequence": 1, "arm": "new", "has_failed": True}
        )
    with pytest.raises(ReportRefused, match="number 1"):
        rig.rollout.report(rig.names[0], {**told, "sequence": 2})
    with pytest.raises(ReportRefused, match="unknown kind"):
        rig.rollout.report(rig.names[0], {"kind": "code", "sequence": 1})


def test_a_file_that_came_changed_is_not_taken(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for path in (tmp_path / "rollout" / "files").iterdir():
        path.write_bytes(path.read_bytes() + b"x")
    said = rig.step()[rig.names[0]]
    assert "came changed; it is not taken" in said
    assert rig.running == [rig.old] * 8
    assert not [p for p in (tmp_path / "devices" / rig.names[0] / "bundles").glob(".*")]


def test_a_bundle_that_was_changed_on_the_disk_is_not_run(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    name = rig.names[0]
    device, folder = rig.devices[name], tmp_path / "devices" / rig.names[0]
    planted = folder / "bundles" / f"{rig.new}.veil"  # whole by itself, but another's
    assert write_bundle(planted, "planted") != rig.new
    assert device.step() == "taken"
    assert load_bundle(folder / "current.veil").sha256 == rig.new  # fetched, not the planted one
    former = folder / "bundles" / f"{rig.old}.veil"
    (former / "int8.onnx").write_bytes(b"")  # a write that power loss took
    rig.rollout.state.status = "rolled_back"
    assert device.step() == "went back"
    assert load_bundle(folder / "current.veil").sha256 == rig.old  # from what it began with
    rig.rollout.state.status = "running"
    (former / "manifest.json").write_text("{}")
    again = rig.device(rig.identities[0])
    assert again.state.current == rig.old
    assert load_bundle(folder / "current.veil").sha256 == rig.old
    (tmp_path / "old.veil" / "manifest.json").write_text("{}")
    (former / "manifest.json").write_text("{}")
    with pytest.raises(GraphError):  # nothing is left that anybody vouches for
        rig.device(rig.identities[0])


def test_a_device_that_trusts_another_key_stays_and_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    who = rig.identities[0]
    device = rig.device(who, trusted=trusted_key(make_key(tmp_path / "other")))
    assert "not signed by the key" in device.step()
    assert device.state.current == rig.old
    assert "not signed" in rig.rollout.status()["refused"][who.name]


def test_beginning_is_refused_where_nothing_could_be_decided(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rules = Rules(stages=(50.0, 100.0), min_reports=2)
    with pytest.raises(ConfigError, match="a rollout is running"):
        rig.begin("new.veil", rig.old, rules)
    rig.rollout.state.status = "done"
    rig.rollout._write()
    with pytest.raises(ConfigError, match="20 of each are needed"):
        rig.begin("new.veil", rig.old, Rules())
    write_bundle(tmp_path / "next.veil", "next")
    (tmp_path / "next.veil" / "int8.onnx").write_bytes(b"changed")
    with pytest.raises(GraphError, match="was changed"):
        rig.begin("next.veil", rig.new, Rules(stages=(50.0, 100.0), min_reports=1))
    rig.begin("new.veil", rig.old, rules)
    assert rig.rollout.offer.sequence == 2
    for wrong in ((50.0,), (100.0,), (60.0, 40.0, 100.0), ()):
        with pytest.raises(ConfigError):
            Rules(stages=wrong)
    (tmp_path / "rollout" / "rollout.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        rig.restart_server()


def test_only_a_bundle_whose_own_audit_passed_goes_out(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.rollout.state.status = "done"
    rig.rollout._write()
    rig.roster.write(tmp_path / "roster.json")
    report, arguments = tmp_path / "audit.json", [
        "rollout", "begin", str(tmp_path), str(tmp_path / "new.veil"), "--former",
        str(tmp_path / "old.veil"), "--key", str(tmp_path / "update.key"), "--min-reports", "2",
        "--stage", "50", "--stage", "100", "--json",
    ]  # fmt: skip
    passed = {"bundle_sha256": rig.new, "verdict": "pass", "strength": "balanced",
              "is_quick": True, "people": "of nobody"}  # fmt: skip

    def began(*more: str) -> Any:
        return CliRunner().invoke(federate, [*arguments, *more])

    for wrong, reason in (
        ({"verdict": "fail"}, "verdict is 'fail'"), ({"verdict": "broken"}, "'broken'"),
        ({"bundle_sha256": rig.old}, "is to go out"), ({"strength": ...}, "wanted what"),
    ):  # fmt: skip
        told = {k: v for k, v in (passed | wrong).items() if v is not ...}
        report.write_text(json.dumps(told))
        error = began("--audit", str(report)).exception
        assert isinstance(error, ConfigError | InputError)
        assert reason in str(error)
    assert "give --audit FILE" in str(began().exception)
    report.write_text(json.dumps(passed))
    done = began("--audit", str(report))
    assert done.exit_code == 0, done.output
    status = json.loads(done.stdout)
    assert status["sequence"] == 2
    assert status["audit"] == {k: v for k, v in passed.items() if k != "bundle_sha256"}


def test_the_pulse_is_read_or_nothing_is(tmp_path: Path) -> None:
    read = pulse_audit(tmp_path / "pulse.json")
    assert read() is None
    for text in ("{", "[]", '{"audit": null}', '{"bundle_sha256": "a", "audit": {}}'):
        (tmp_path / "pulse.json").write_text(text)
        assert read() is None
    told = {"bundle_sha256": "a", "audit": {"samples": 3, "alarms": 1, "state": "watching"}}
    (tmp_path / "pulse.json").write_text(json.dumps(told))
    assert read() == Audit(bundle_sha256="a", samples=3, alarms=1)


def test_a_wrong_server_address_or_certificate_is_said(tmp_path: Path) -> None:
    rig = Rig(tmp_path, num=4)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Link("here", tmp_path / "none", rig.identities[0])
    with pytest.raises(InputError, match="no readable certificate"):
        Link("here:1", tmp_path / "none", rig.identities[0])
