"""Settings of a device: what is taken, what is refused, and what a start makes of them."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera import serve_password
from veilcam.camera.errors import ConfigError
from veilcam.hardware import setup
from veilcam.hardware.settings import (
    Secrets,
    Settings,
    changed,
    read_secrets,
    read_settings,
    to_toml,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVsbG8gd29ybGQgdGhpcyBpcyBhIGtleSBv me@home"
PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z"), codec="utf-8"), max_size=30)


def read(tmp_path: Path, text: str) -> Settings:
    (path := tmp_path / "veilcam.toml").write_text(text)
    return read_settings(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wifi = 1", r"unknown key 'wifi'; known: name, timezone"),
        ("name = 5", "name is a int, wanted text in quotes"),
        ("web = 'yes'", "web is a str, wanted true or false"),
        ("name = 'My Camera'", "name is 'My Camera', wanted letters"),
        ("name = '-x'", "name is"),
        ("name = ''", "name is"),
        ("timezone = '../../etc/passwd'", "timezone is"),
        ("wifi_ssid = '123456789012345678901234567890123'", "at most 32"),
        ('wifi_ssid = "a\\nb"', "at most 32 printable"),
        ("wifi_country = 'de'", "two letters"),
        ("ssh_key = 'ssh-ed25519'", "one line"),
        (f'ssh_key = "{KEY}\\ncommand"', "one line"),
        ("source = 'rtsp://10.0.0.1/'", "number of a camera"),
        ("size = '720p'", "WIDTHxHEIGHT"),
        ("fps = 0", "1 to 240"),
        ("fps = '30'", "fps is a str, wanted a number"),
        ("mode = 'off'", "face, scene, frame"),
        ("strength = 'none'", "strict, balanced, faithful"),
        ("update_url = 'ftp://x'", "https://"),
        ("update_url = 'https://x/$(reboot)'", "https://"),
        ("name = ", "is no TOML"),
        ("[network]\nname = 'x'", "unknown key 'network'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"veilcam\.toml.*{message}"):
        read(tmp_path, text)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Settings()
    assert read(tmp_path, "\ufeffname = 'door'").name == "door"


@given(ssid=PRINTABLE, prompt=PRINTABLE, web=st.booleans())
def test_settings_come_back_from_their_file(
    tmp_path_factory: pytest.TempPathFactory, ssid: str, prompt: str, web: bool
) -> None:
    if len(ssid.encode()) > 32:
        ssid = ssid[:8]
    settings = Settings(wifi_ssid=ssid, prompt=prompt, web=web, ssh_key=KEY)
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(to_toml(settings))
    assert read_settings(path) == settings


def test_single_keys_change_and_the_rest_stays() -> None:
    door = changed(Settings(strength="strict"), {"name": "door", "web": "false"})
    assert (door.name, door.web, door.strength) == ("door", False, "strict")
    slow = changed(Settings(), {"size": "640x360", "fps": "5"})
    assert (slow.size, slow.fps) == ("640x360", 5)
    with pytest.raises(ConfigError, match="fps is 'many', wanted a number"):
        changed(Settings(), {"fps": "many"})
    with pytest.raises(ConfigError, match="unknown setting 'colour'"):
        changed(Settings(), {"colour": "red"})
    with pytest.raises(ConfigError, match="true or false"):
        changed(Settings(), {"web": "1"})


@pytest.mark.parametrize("text", ["wifi_password = 'hunt'", "wifi_password = \"hunter22\\n\"",
                                  "password = 'hunter'", "password = 'hunter22' x"])  # fmt: skip
def test_errors_about_secrets_do_not_tell_them(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "secrets.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_secrets(path)
    assert "hunt" not in str(caught.value)
    assert caught.value.__cause__ is None or "hunt" not in str(caught.value.__cause__)
    assert "hunter22" not in repr(Secrets(wifi_password="hunter222"))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("boot", "data"):
        (tmp_path / name).mkdir()
    return tmp_path / "boot", tmp_path / "data"


def test_secrets_leave_the_open_partition(places: tuple[Path, Path]) -> None:
    card, data = places
    (card / "secrets.toml").write_text("wifi_password = 'hunter222'\npassword = 'four short words'")
    _, secrets = setup.take_over(card, data)
    assert (secrets.wifi_password, secrets.password) == ("hunter222", "four short words")
    assert not (card / "secrets.toml").exists()
    kept = data / "secrets.toml"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "four short words" not in kept.read_text(), "of it only a hash is kept"
    assert setup.take_over(card, data)[1] == Secrets(wifi_password="hunter222")
    (card / "secrets.toml").write_text("stream_password = 'four other words'")
    both = Secrets(wifi_password="hunter222", stream_password="four other words")
    assert setup.take_over(card, data)[1] == both
    assert setup.take_over(card, data)[1] == both


def test_broken_secrets_leave_it_too(places: tuple[Path, Path]) -> None:
    card, data = places
    (card / "secrets.toml").write_text("password = 'x'")
    assert setup.take_over(card, data)[1] == Secrets()
    assert not (card / "secrets.toml").exists()


def test_broken_settings_leave_the_last_good_ones(places: tuple[Path, Path]) -> None:
    card, data = places
    assert setup.take_over(card, data)[0] == Settings()
    (card / "veilcam.toml").write_text("strength = 'strict'")
    assert setup.take_over(card, data)[0].strength == "strict"
    (card / "veilcam.toml").write_text("strength = 'faithfull'")
    assert setup.take_over(card, data)[0].strength == "strict"
    (card / "veilcam.toml").unlink()
    assert setup.take_over(card, data)[0].strength == "strict"


def test_what_another_version_knows_does_not_cost_the_rest(
    places: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    card, data = places
    (card / "veilcam.toml").write_text("mode = 'frame'\nshutter = 'closed'\nstrength = 'strict'")
    settings = setup.take_over(card, data)[0]
    assert (settings.mode, settings.strength) == ("frame", "strict")
    assert "unknown key 'shutter'" in caplog.text
    with pytest.raises(ConfigError, match="unknown key 'shutter'"):
        read_settings(card / "veilcam.toml")


def test_kept_secrets_of_another_version_do_not_cost_the_rest(places: tuple[Path, Path]) -> None:
    card, data = places
    (kept := data / "secrets.toml").write_text("wifi_password = 'hunter222'\nfinger = 'print'")
    assert setup.take_over(card, data)[1] == Secrets(wifi_password="hunter222")
    with pytest.raises(ConfigError, match="unknown key 'finger'"):
        read_secrets(kept)


def test_broken_settings_with_none_before_are_strict(places: tuple[Path, Path]) -> None:
    card, data = places
    (card / "veilcam.toml").write_text("strength = strict")
    assert setup.take_over(card, data)[0] == Settings(strength="strict")


def test_a_device_without_a_password_makes_one_up_once(tmp_path: Path) -> None:
    pytest.importorskip("argon2", reason="the extra `serve` is not installed")
    made_up = setup.keep_password(Secrets(), tmp_path / "page")
    stored = serve_password.load(tmp_path / "page/veilcam/password")
    assert stored is not None
    assert serve_password.is_right(made_up, stored)
    assert setup.keep_password(Secrets(), tmp_path / "page") == ""
    assert setup.keep_password(Secrets(password="four short words"), tmp_path / "page") == ""
    stored = serve_password.load(tmp_path / "page/veilcam/password")
    assert stored is not None
    assert serve_password.is_right("four short words", stored)


def test_the_system_gets_what_the_settings_say(tmp_path: Path) -> None:
    (tmp_path / "usr/share/zoneinfo/Europe").mkdir(parents=True)
    (tmp_path / "usr/share/zoneinfo/Europe/Berlin").touch()
    (tmp_path / "usr/share/veilcam").mkdir()
    (tmp_path / "usr/share/veilcam/10-x.transfer").write_text("Path=@UPDATE_URL@\n")
    settings = Settings(
        name="door", timezone="Europe/Berlin", wifi_ssid="Café", wifi_country="FR", ssh_key=KEY,
        prompt='an "old" man; $(x) \\ `y`', update_url="https://example.org/veilcam", web=False,
        size="640x360", fps=15,
    )  # fmt: skip
    setup.write_system(settings, Secrets(wifi_password='say "hi" twice'), tmp_path)

    def text(name: str) -> str:
        return (tmp_path / name).read_text()

    assert text("etc/hostname") == "door\n"
    assert (tmp_path / "etc/localtime").readlink().name == "Berlin"
    assert 'PROMPT="an \\"old\\" man; \\$(x) \\\\ \\`y\\`"\n' in text("run/veilcam/environment")
    assert 'SIZE="640x360"\nFPS="15"\n' in text("run/veilcam/environment")
    assert text("root/.ssh/authorized_keys") == f"{KEY}\n"
    assert text("run/sysupdate.d/10-x.transfer") == "Path=https://example.org/veilcam\n"
    wifi = text("etc/wpa_supplicant/wpa_supplicant-wlan0.conf")
    assert "ssid=436166c3a9\n" in wifi
    assert 'psk="say "hi" twice"\n' in wifi
    assert not (tmp_path / "run/veilcam/web").exists()
    assert (tmp_path / "run/veilcam/update").exists()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "root/.ssh").iterdir()}
    assert modes == {0o600}


def test_rtsp_has_a_password_whoever_chose_it(tmp_path: Path) -> None:
    on, off = Settings(rtsp=True), Settings()
    chosen = Secrets(stream_password='four "short" words')
    assert setup.with_stream_password(off, Secrets(), tmp_path) == (Secrets(), "")
    assert setup.with_stream_password(on, chosen, tmp_path) == (chosen, "")
    assert not list(tmp_path.iterdir())
    secrets, made_up = setup.with_stream_password(on, Secrets(password="page's own one"), tmp_path)
    assert len(made_up) >= 10
    kept = tmp_path / "secrets.toml"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert read_secrets(kept) == Secrets(stream_password=made_up), "the page's is not kept"
    assert setup.with_stream_password(on, read_secrets(kept), tmp_path)[1] == ""
    setup.write_system(on, chosen, tmp_path)
    environment = (tmp_path / "run/veilcam/environment").read_text()
    assert 'MORE="--rtsp-port 8554"' in environment
    assert 'VEILCAM_STREAM_PASSWORD="four \\"short\\" words"' in environment
    assert (tmp_path / "run/veilcam/rtsp").exists()
    setup.write_system(off, secrets, tmp_path)
    environment = (tmp_path / "run/veilcam/environment").read_text()
    assert 'MORE=""' in environment
    assert made_up not in environment
    assert not (tmp_path / "run/veilcam/rtsp").exists()


def test_an_unknown_timezone_keeps_the_old_one(tmp_path: Path) -> None:
    setup.write_system(Settings(timezone="Mars/Olympus"), Secrets(), tmp_path)
    assert not (tmp_path / "etc/localtime").exists()
