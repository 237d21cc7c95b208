"""One run, one noise: a capture process that is started again answers as the one before it."""

import numpy as np
import pytest

from veilcam.camera import control, crew, run_noise
from veilcam.camera.layout_code import PermanentResponse
from veilcam.camera.layout_plan import NUM_LEVELS, layout_plan, truth_probability
from veilcam.camera.process import Process
from veilcam.camera.settings import Settings
from veilcam.camera.strength import Strength


@pytest.fixture(autouse=True)
def without_key():
    yield
    run_noise.choose_key("")


def answers(label):
    plan = layout_plan(Strength.BALANCED)
    respond = PermanentResponse(plan.grid_hw, plan.epsilon, random_bytes=run_noise.run_noise(label))
    levels = np.random.default_rng(0).integers(0, min(NUM_LEVELS), (*plan.grid_hw, 3))
    return respond(levels.astype(np.uint8))


def test_with_the_run_s_key_a_second_start_answers_as_the_first():
    run_noise.choose_key(run_noise.new_key())
    first = answers("cells")
    assert np.array_equal(first, answers("cells"))
    assert not np.array_equal(first, answers("cells strict"))
    run_noise.choose_key(run_noise.new_key())  # another run
    assert not np.array_equal(first, answers("cells"))


def test_without_a_key_each_start_draws_anew():
    assert not np.array_equal(answers("cells"), answers("cells"))


def test_lies_are_as_frequent_as_stated_with_a_key_too():
    run_noise.choose_key(run_noise.new_key())
    plan = layout_plan(Strength.BALANCED)
    truth = np.full((*plan.grid_hw, 3), 2, np.uint8)
    kept = []
    for run in range(40):
        noise = run_noise.run_noise(str(run))
        response = PermanentResponse(plan.grid_hw, plan.epsilon, random_bytes=noise)
        kept.append(response(truth) == truth)
    pairs = zip(plan.epsilon, NUM_LEVELS, strict=True)
    wanted = [truth_probability(k, epsilon) for epsilon, k in pairs]
    # 5,760 draws: a stddev is 0.007 at most
    assert np.allclose(np.mean(kept, axis=(0, 1, 2)), wanted, atol=0.04)


@pytest.mark.parametrize("key", ["ab", "zz" * 32])
def test_a_broken_key_is_refused(key):
    with pytest.raises(ValueError, match=r"key of 1 bytes|non-hexadecimal"):
        run_noise.choose_key(key)


def test_only_capture_is_told_the_key_and_each_capture_the_same(monkeypatch):
    told = []

    class FakeLink:
        def __init__(self, role):
            self.role = role

        def send(self, message):
            if isinstance(message, control.Setup):
                told.append((self.role, message))

    def born(process, command, _descriptors):
        process.link = FakeLink(command[0])

    monkeypatch.setattr(Process, "__init__", born)
    settings = Settings(source="demo", sink="null")
    team = crew.Crew(settings, {"capture": ["capture"], "publish": ["publish"]}, {})
    for role in ("capture", "publish", "capture"):
        team.put(role)
    team.use(settings)
    team.put("capture")
    assert {message.noise_key for role, message in told if role == "publish"} == {""}
    keys = [message.noise_key for role, message in told if role == "capture"]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(bytes.fromhex(keys[0])) == run_noise.KEY_BYTES
    assert control.decode(control.encode(told[0][1])) == told[0][1]
