"""A plan says beforehand what a run spends, and refuses what makes no promise."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from veilcam.camera import cli
from veilcam.camera.errors import ConfigError
from veilcam.model.plan import Plan, plan_from_table, read_plan
from veilcam.model.privacy import Mechanism


def table(**changes: Any) -> dict[str, Any]:
    stages = [
        {"stage": "latents", "l2_clip_norm": 1.0, "noise_multiplier": 2.0},
        {"stage": "game", "l2_clip_norm": 0.5, "sampling_prob": 0.1, "iterations": 40},
    ]
    people = {"epsilon": 4.0, "delta": 1e-5, "num_persons": 1836}
    return people | {"stages": stages} | changes


def test_the_plan_meets_its_budget_and_tells_each_stage() -> None:
    plan = plan_from_table(table())
    told = plan.as_dict()
    assert 3.9 < told["epsilon"] <= 4.0
    assert told["epsilon"] >= plan.composed_epsilon
    assert (told["unit"], told["relation"], told["accountant"]) == (
        "person",
        "REPLACE_SPECIAL",
        "PLD",
    )
    each = [stage["epsilon"] for stage in told["stages"]]
    assert max(each) < told["epsilon"] < sum(each)
    assert plan.stage("latents").noise_multiplier == pytest.approx(
        2 * plan.stage("game").noise_multiplier
    )
    assert told["stages"][1]["expected_batch_size"] == pytest.approx(183.6)
    text = plan.as_text()
    assert re.search(r"game +40 +183\.6", text)
    assert re.search(r"together: epsilon (3\.99|4\.00). at delta 1e-05 per person", text)


def test_a_plan_over_its_budget_is_refused() -> None:
    loud = Mechanism(stage="a", num_persons=100, l2_clip_norm=1.0, noise_multiplier=0.5)
    with pytest.raises(ConfigError, match=r"spend epsilon .* and the budget is 1"):
        Plan(epsilon=1.0, delta=1e-5, stages=(loud,))
    with pytest.raises(ConfigError, match="different names"):
        Plan(epsilon=99.0, delta=1e-5, stages=(loud, loud))
    with pytest.raises(ConfigError, match="no stage 'b'; the plan has"):
        Plan(epsilon=99.0, delta=1e-5, stages=(loud,)).stage("b")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0 must be > 0"),
        ({"epsilon": -3.0}, "epsilon=-3"),
        ({"delta": 0.1}, "below 1/1836"),
        ({"delta": 1 / 1836}, "below 1/1836"),
        ({"stages": []}, "stages is empty"),
        ({"noise": 1}, "keys"),
        ({"num_persons": 0}, "num_persons=0"),
        ({"num_persons": "many"}, "num_persons='many' has the wrong type"),
        ({"epsilon": True}, "epsilon=True has the wrong type"),
        ({"stages": [{"stage": "a"}]}, "'l2_clip_norm' is missing"),
        ({"stages": [{"stage": "a", "l2_clip_norm": "1"}]}, "l2_clip_norm='1' has the wrong type"),
        ({"stages": [{"stage": "a", "l2_clip_norm": 1, "seed": 3}]}, "unknown key 'seed'"),
        ({"stages": [{"stage": "a", "l2_clip_norm": 1, "num_persons": 9}]}, "unknown key"),
        ({"stages": [{"stage": "a", "l2_clip_norm": 0.0}]}, "l2_clip_norm=0.0 must be > 0"),
    ],
)
def test_a_bad_table_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        plan_from_table(table(**changes))


CONFIG = """
pack = "faces.npz"
[privacy]
epsilon = 2
delta = 1e-5
num_persons = 1836
[[privacy.stages]]
stage = "latents"
l2_clip_norm = 1
"""


def test_the_command_prints_the_plan_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "face.toml"
    path.write_text(CONFIG)
    assert cli.call(["train", str(path), "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 1.95 < told["epsilon"] <= 2.0
    assert [stage["stage"] for stage in told["stages"]] == ["latents"]
    assert cli.call(["train", str(path), "--plan"]) == 0
    assert "together: epsilon" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["face.toml"]


@pytest.mark.parametrize("text", ["pack = 'a'", "privacy = 3", "[privacy", "[privacy]"])
def test_a_config_without_a_plan_says_so(text: str, tmp_path: Path) -> None:
    path = tmp_path / "face.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"privacy|cannot be read as TOML"):
        read_plan(path)
    assert cli.call(["train", str(path), "--plan"]) == 2
