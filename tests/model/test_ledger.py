"""A spend is on the disk before the step, whatever happens to the process."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from veilcam.camera.errors import ConfigError
from veilcam.model.ledger import NAME, BudgetExceededError, Ledger, promise, read_entries
from veilcam.model.plan import Plan
from veilcam.model.privacy import Mechanism, epsilon_of
from veilcam.model.private_data import PrivacyError

STEP = Mechanism(stage="step", num_persons=50, l2_clip_norm=1.0, noise_multiplier=9.0, iterations=6)
ONCE = Mechanism(stage="once", num_persons=50, l2_clip_norm=1.0, noise_multiplier=9.0)


def plan(*stages: Mechanism, epsilon: float = 3.0) -> Plan:
    return Plan(epsilon=epsilon, delta=1e-5, stages=stages or (STEP, ONCE))


def test_spends_are_counted_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with Ledger(path, plan()) as ledger:
        for count in (1, 2):
            assert ledger.spend(STEP).mechanism == STEP
            assert read_entries(path)[0]["spent"] == ledger.spent(STEP) == count
    with Ledger(path, plan()) as ledger:
        assert (ledger.spent(STEP), ledger.spent(ONCE)) == (2, 0)
        ledger.check_covers({"step": 2, "once": 0})
        with pytest.raises(PrivacyError, match="took 3 steps of 'step' and the ledger holds 2"):
            ledger.check_covers({"step": 3})


def test_past_the_plan_it_stops_and_writes_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / NAME, plan()) as ledger:
        ledger.spend(ONCE)
        before = (tmp_path / NAME).read_text()
        with pytest.raises(BudgetExceededError, match="all 1 planned steps are spent"):
            ledger.spend(ONCE)
        assert (tmp_path / NAME).read_text() == before
        with pytest.raises(PrivacyError, match="not in the plan"):
            ledger.spend(replace(ONCE, noise_multiplier=99.0))


def test_a_changed_plan_pays_for_what_was_spent_before(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with Ledger(path, plan()) as ledger:
        for _ in range(6):
            ledger.spend(STEP)
    changed = replace(STEP, noise_multiplier=5.0)
    alone = epsilon_of(changed.dp_event(), 1e-5)
    with pytest.raises(BudgetExceededError, match=r"settings of \['step'\] changed"):
        Ledger(path, plan(changed, epsilon=alone * 1.02))
    with Ledger(path, plan(changed, epsilon=9.0)) as ledger:
        assert ledger.spent(changed) == 0
        ledger.spend(changed)
        assert len(read_entries(path)) == 2


def test_the_promise_is_recomputed_from_what_was_spent(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with Ledger(path, plan()) as ledger:
        for _ in range(3):
            ledger.spend(STEP)
        told = ledger.promise()
        assert told["epsilon"] == pytest.approx(epsilon_of(STEP.dp_event(3), 1e-5))
        assert [stage["iterations"] for stage in told["stages"]] == [3]
        ledger.spend(ONCE)
    told = promise(path)
    assert told["epsilon"] > max(stage["epsilon"] for stage in told["stages"])
    assert (told["unit"], told["accountant"], told["relation"]) == (
        "person",
        "PLD",
        "REPLACE_SPECIAL",
    )
    for step in range(3, 6):
        with Ledger(path, plan()) as ledger:
            assert ledger.spent(STEP) == step
            ledger.spend(STEP)
    assert promise(path)["epsilon"] == pytest.approx(plan().composed_epsilon)


def test_two_runs_cannot_spend_the_same_budget(tmp_path: Path) -> None:
    with Ledger(tmp_path / NAME, plan()), pytest.raises(PrivacyError, match="another run"):
        Ledger(tmp_path / NAME, plan())
    Ledger(tmp_path / NAME, plan()).close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"entries": []}', '{"entries": [{}]}'])
def test_a_damaged_ledger_is_refused_and_kept(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(PrivacyError, match="can't be read"):
        Ledger(tmp_path / NAME, plan())
    assert (tmp_path / NAME).read_text() == text


def test_a_changed_entry_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with Ledger(path, plan()) as ledger:
        ledger.spend(STEP)
    table = json.loads(path.read_text())
    table["entries"][0]["mechanism"]["noise_multiplier"] = 99.0
    path.write_text(json.dumps(table))
    with pytest.raises(PrivacyError, match="was changed"):
        Ledger(path, plan())


def test_a_full_disk_loses_nothing_and_gives_no_permit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / NAME
    with Ledger(path, plan()) as ledger:
        ledger.spend(STEP)
        before = path.read_text()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(PrivacyError, match=r"No space left.*no step was taken"):
            ledger.spend(STEP)
        assert path.read_text() == before
        assert ledger.spent(STEP) == 1
        monkeypatch.undo()
        ledger.spend(STEP)
    assert read_entries(path)[0]["spent"] == 2
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


CHILD = textwrap.dedent("""
    import os, signal, sys, random, threading, time
    from pathlib import Path
    sys.path[:0] = [{tests!r}]
    from test_ledger import STEP, plan
    from dataclasses import replace
    from veilcam.model.ledger import Ledger
    long = replace(STEP, iterations=100_000, noise_multiplier=2000.0)
    out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    point, count = sys.argv[3], 0
    if point != "any":
        real = getattr(os, point)
        def die(*args, **kwargs):
            global count
            count += 1
            if count > 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(os, point, die)
    with Ledger(Path(sys.argv[1]), plan(long)) as ledger:
        print("ready", flush=True)
        while True:
            ledger.spend(long)
            os.write(out, b"x")  # the step that was paid for
""")


@pytest.mark.parametrize("point", ["any", "fsync", "replace"])
def test_a_kill_at_any_point_never_under_counts(point: str, tmp_path: Path) -> None:
    path, taken = tmp_path / NAME, tmp_path / "taken"
    code = CHILD.format(tests=str(Path(__file__).parent))
    random, paid = np.random.default_rng(), 0
    for _ in range(3 if point == "any" else 1):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(taken), point], stdout=subprocess.PIPE
        ) as child:
            if point == "any":
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                while not taken.exists() or taken.stat().st_size <= paid:
                    assert child.poll() is None
                try:
                    child.wait(random.uniform(0.0, 0.1))
                except subprocess.TimeoutExpired:
                    child.kill()
            child.wait(60)
        assert child.returncode == -signal.SIGKILL
        (entry,) = read_entries(path)
        paid, steps = entry["spent"], taken.stat().st_size
        assert steps > 0
    # each kill may waste the one spend that was on the disk while its step had not begun
    assert steps <= paid <= steps + 3


def test_units_are_not_mixed(tmp_path: Path) -> None:
    path, camera = tmp_path / NAME, replace(STEP, unit="camera")
    with Ledger(path, plan(camera)) as ledger:
        ledger.spend(camera)
        assert ledger.promise()["unit"] == json.loads(path.read_text())["unit"] == "camera"
    with pytest.raises(PrivacyError, match="another unit than the plan's"):
        Ledger(path, plan())
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"unit": "person"}))
    with pytest.raises(PrivacyError, match="changed or is of another version"):
        read_entries(path)
    with pytest.raises(ConfigError, match="protect different units"):
        plan(camera, ONCE)
    with pytest.raises(ConfigError, match="allowed: person, camera"):
        replace(STEP, unit="household")
