"""A slow machine may say that it is slow; nothing else about a run changes."""

import pytest

from veilcam.camera.errors import ConfigError
from veilcam.camera.notes import Limits
from veilcam.camera.patience import NAME, patience
from veilcam.camera.settings import Settings


def test_limits_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert Limits.of_this_machine() == Limits()
    usual = Settings(source="demo", sink="null")
    monkeypatch.setenv(NAME, "20")
    assert Limits.of_this_machine().start_s == 20 * Limits().start_s
    slow = Settings(source="demo", sink="null")
    assert slow.live_limit_s == 20 * usual.live_limit_s
    assert slow.source_limit_s == 20 * usual.source_limit_s


@pytest.mark.parametrize("text", ["", "0.5", "101", "nan", "inf", "long"])
def test_what_is_no_factor_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, text)
    with pytest.raises(ConfigError, match=NAME):
        patience()
