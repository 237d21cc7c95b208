"""Cast files and options, and the way of a cast through the settings."""

from pathlib import Path
from typing import Any

import pytest

from veilcam.camera.cast import Cast, cast_of_options, cast_of_values, read_cast
from veilcam.camera.control import ProtocolError
from veilcam.camera.errors import ConfigError
from veilcam.camera.settings import Settings, from_values


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('1 = "old"\n2 = "young"', Cast(people=("old", "young"))),
        ('3 = "old"\nothers = "young"', Cast(people=("", "", "old"), others="young")),
    ],
)
def test_cast_files_are_read(tmp_path: Path, text: str, wanted: Cast) -> None:
    path = tmp_path / "cast.toml"
    path.write_text(text)
    assert read_cast(path) == wanted
    assert cast_of_values(wanted.to_values()) == wanted


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "casts nobody"),
        ("1 = ", "cannot be read as TOML"),
        ('0 = "old"', "got person '0', wanted 1 to 32 or others"),
        ('anna = "old"', "got person 'anna'"),
        ("1 = 2", "person 1: wanted a text"),
        (f'1 = "{"o" * 201}"', "at most 200 letters"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "cast.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_cast(path)


def test_options_make_a_cast(tmp_path: Path) -> None:
    path = tmp_path / "cast.toml"
    path.write_text('1 = "old"')
    assert cast_of_options(None, None) is None
    assert cast_of_options("young", path) == Cast(people=("old",), others="young")
    with pytest.raises(ConfigError, match="--prompt is empty"):
        cast_of_options(" ", None)
    with pytest.raises(ConfigError, match="cannot be read"):
        cast_of_options(None, tmp_path / "none.toml")


@pytest.mark.parametrize("cast", [{"0": "old"}, {"1": 5}, {"x": "old"}])
def test_settings_with_another_cast_are_refused(cast: dict[str, Any]) -> None:
    values = Settings(source="demo", sink="null").to_values() | {"cast": cast}
    with pytest.raises(ProtocolError, match="wrong cast"):
        from_values(values)
