"""What a user sets on a device: `veilcam.toml` and `secrets.toml`, read strictly.

Both lie on the card's first partition, which every computer can read. The device takes the secrets
away from there at its first start (`setup`), the settings stay and may be edited by hand.
"""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from veilcam.camera.asked import MAX_FPS, SIZE, USUAL
from veilcam.camera.errors import ConfigError

SETTINGS_FILE, SECRETS_FILE = "veilcam.toml", "secrets.toml"
MODES = ("face", "scene", "frame")
STRENGTHS = ("strict", "balanced", "faithful")
_MAX_BYTES = 64 << 10
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")
_SSH_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-\S+|sk-\S+) [A-Za-z0-9+/=]{40,} ?[^\n]*")
_LIGHT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:._-]{0,63}")
_SOURCE = re.compile(r"\d{1,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything in `veilcam.toml`; the names are its keys.

    Attributes:
        name: Host name; the device is found as NAME.local.
        timezone: As in Europe/Berlin.
        wifi_ssid: Network to join, empty for wired only.
        wifi_country: Two letters; without them only channels allowed everywhere are used.
        ssh_key: Public key that may log in as root; empty: no SSH at all.
        source: Camera: a number. Never a network camera: what sees raw pictures has no network.
        size, fps: What the camera is asked for, as 1280x720 and 30; it gives what it has nearest.
        mode, strength, prompt: As `veilcam serve`.
        web: Serve the page, and with it /stream.mjpg and /snapshot.jpg.
        rtsp: Serve rtsp://NAME.local:8554/veilcam, H.264 for recorders.
        light: Name of a light in /sys/class/leds that shows whether pictures flow; empty: none.
        update_url: Web folder of signed updates; empty: none are looked for.
    """

    name: str = "veilcam"
    timezone: str = "Etc/UTC"
    wifi_ssid: str = ""
    wifi_country: str = ""
    ssh_key: str = ""
    source: str = "0"
    size: str = f"{USUAL.width}x{USUAL.height}"
    fps: int = USUAL.fps
    mode: str = "scene"
    strength: str = "balanced"
    prompt: str = ""
    web: bool = True
    rtsp: bool = False
    light: str = ""
    update_url: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that cannot be meant."""
        _match("name", self.name, _NAME, "letters a to z, digits and hyphens, at most 63")
        _match("timezone", self.timezone, _ZONE, "a name such as Europe/Berlin")
        if len(self.wifi_ssid.encode()) > 32 or not self.wifi_ssid.isprintable():
            raise _error("wifi_ssid", self.wifi_ssid, "at most 32 printable bytes")
        if self.wifi_country:
            _match("wifi_country", self.wifi_country, re.compile("[A-Z]{2}"), "two letters, as DE")
        if self.ssh_key:
            _match("ssh_key", self.ssh_key, _SSH_KEY, "the one line of an id_....pub file")
        _match(
            "source", self.source, _SOURCE, "the number of a camera at the device, 0 for the first"
        )
        _match("size", self.size, SIZE, "WIDTHxHEIGHT in pixels, as 640x360")
        if not 1 <= self.fps <= MAX_FPS:
            raise _error("fps", self.fps, f"1 to {MAX_FPS} pictures a second")
        for key, allowed in (("mode", MODES), ("strength", STRENGTHS)):
            if getattr(self, key) not in allowed:
                raise _error(key, getattr(self, key), ", ".join(allowed))
        if self.light:
            _match("light", self.light, _LIGHT, "a name from /sys/class/leds, as ACT")
        if len(self.prompt) > 500 or not self.prompt.isprintable():
            raise _error("prompt", self.prompt, "at most 500 printable letters on one line")
        if self.update_url and not re.fullmatch(
            r"https?://[\w.-]+(:\d+)?(/[\w./~-]*)?", self.update_url
        ):
            raise _error("update_url", self.update_url, "https://... or http://..., without spaces")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Secrets:
    """Everything in `secrets.toml`; never shown.

    Attributes:
        wifi_password: 8 to 63 letters, or 64 hexadecimal digits.
        password: Of page and streams, at least 10 letters; empty: the device makes one up and
            shows it on its screen once.
        stream_password: Of RTSP, which needs to know it, so it is kept; empty: made up likewise.
    """

    wifi_password: str = ""
    password: str = ""
    stream_password: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError; the message holds no secret."""
        text = self.wifi_password
        is_key = re.fullmatch("[0-9a-fA-F]{64}", text)
        if (
            text
            and not is_key
            and not (8 <= len(text) <= 63 and text.isascii() and text.isprintable())
        ):
            raise ConfigError("wifi_password: wanted 8 to 63 plain letters, digits and signs")
        for name in ("password", "stream_password"):
            value = getattr(self, name)
            if value and not (10 <= len(value) <= 200 and value.isprintable()):
                raise ConfigError(f"{name}: wanted 10 to 200 letters; four or five words do well")


_Kind = TypeVar("_Kind", Settings, Secrets)


def read_settings(path: Path, *, skipped: Callable[[str], None] | None = None) -> Settings:
    """Settings out of a file.

    Args:
        path: The file.
        skipped: Gets a line for each key that is unknown, and the rest holds; None refuses them.

    Raises:
        ConfigError: Names file, key, what was got and is wanted.
    """
    return _read(path, Settings, skipped)


def read_secrets(path: Path, *, skipped: Callable[[str], None] | None = None) -> Secrets:
    """Secrets out of a file, as `read_settings`. Raises ConfigError, without a secret in it."""
    return _read(path, Secrets, skipped)


def changed(settings: Settings, assignments: dict[str, str]) -> Settings:
    """Settings with some `key=value` of the command line in place of theirs.

    >>> changed(Settings(), {"name": "door", "web": "false"}).web
    False
    """
    values: dict[str, Any] = {}
    known = _known(Settings)
    for key, text in assignments.items():
        if key not in known:
            raise ConfigError(f"unknown setting {key!r}; known: {', '.join(known)}")
        if known[key] is bool:
            if text not in ("true", "false"):
                raise _error(key, text, "true or false")
            values[key] = text == "true"
        elif known[key] is int:
            if not re.fullmatch(r"\d{1,6}", text):
                raise _error(key, text, "a number")
            values[key] = int(text)
        else:
            values[key] = text
    return replace(settings, **values)


def to_toml(value: Settings | Secrets) -> str:
    """The file's text: every key, with its value."""
    lines = [f"{entry.name} = {_literal(getattr(value, entry.name))}" for entry in fields(value)]
    return "\n".join(lines) + "\n"


def _read(path: Path, kind: type[_Kind], skipped: Callable[[str], None] | None = None) -> _Kind:
    try:
        data = path.read_bytes()
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path} has {len(data)} bytes, wanted at most {_MAX_BYTES}")
        values = tomllib.loads(data.decode("utf-8-sig"))  # Windows editors put a mark first
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # The parser's message may quote a secret; its place is enough there.
        detail = "" if kind is Secrets else f": {error}"
        raise ConfigError(
            f'{path} is no TOML{detail}; wanted lines such as name = "door"'
        ) from None
    known = _known(kind)
    for key in [key for key in values if key not in known]:
        problem = f"{path}: unknown key {key!r}; known: {', '.join(known)}"
        if skipped is None:
            raise ConfigError(problem)
        skipped(problem)
        del values[key]
    for key, value in values.items():
        if type(value) is not known[key]:
            wanted = {str: "text in quotes", bool: "true or false", int: "a number"}[known[key]]
            raise ConfigError(f"{path}: {key} is a {type(value).__name__}, wanted {wanted}")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _known(kind: type[Any]) -> dict[str, type]:
    return {entry.name: entry.type for entry in fields(kind) if isinstance(entry.type, type)}


def _literal(value: str | bool | int) -> str:
    """A TOML literal; JSON's strings are TOML's, but for DEL, which no setting holds."""
    return json.dumps(value, ensure_ascii=False)


def _match(key: str, value: str, pattern: re.Pattern[str], wanted: str) -> None:
    if not pattern.fullmatch(value):
        raise _error(key, value, wanted)


def _error(key: str, value: str | int, wanted: str) -> ConfigError:
    return ConfigError(f"{key} is {value!r}, wanted {wanted}")
