"""`veilcam image customize`: settings and secrets onto the first partition of an image.

Written by mtools straight into the image's FAT file system: no root, no mount. The image's own
system is not touched, so its checksums (dm-verity) stay what they are.
"""

import shutil
import subprocess
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError, InputError
from veilcam.hardware.gpt import ESP, find_partition
from veilcam.hardware.settings import (
    SECRETS_FILE,
    SETTINGS_FILE,
    Secrets,
    Settings,
    changed,
    read_secrets,
    read_settings,
    to_toml,
)


def customize(
    image: Path, *, settings_file: Path | None, assignments: dict[str, str],
    secrets: Secrets | None,
) -> dict[str, Any]:  # fmt: skip
    """Writes what is new to `image`; the settings that hold then, without secrets.

    Args:
        image: Disk image or a card's device file.
        settings_file: A veilcam.toml to take; default: what the image has.
        assignments: Single keys on top of it.
        secrets: Passwords of Wi-Fi, page and RTSP; None leaves what is there.

    Raises:
        ConfigError: A setting is unknown or wrong; nothing was written.
        InputError: No Veilcam image, or mtools is missing.
    """
    card = Card(image)
    has_settings = settings_file is not None or card.read(SETTINGS_FILE) is not None
    with tempfile.TemporaryDirectory() as folder:
        if settings_file is None and has_settings:
            settings_file = Path(folder) / SETTINGS_FILE
            settings_file.write_bytes(card.read(SETTINGS_FILE) or b"")
        settings = read_settings(settings_file) if settings_file else Settings()
    settings = changed(settings, assignments)
    if settings.wifi_ssid and secrets is None and not card.read(SECRETS_FILE):
        raise ConfigError("wifi_ssid is set but no password came with it; add --wifi-password-file")
    card.write(SETTINGS_FILE, to_toml(settings).encode())
    if secrets is not None:
        card.write(SECRETS_FILE, to_toml(secrets).encode())
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return {"image": str(image), "settings": values, "has_secrets": secrets is not None}


def gather_secrets(
    secrets_file: Path | None, wifi_file: Path | None, password_file: Path | None,
    stream_file: Path | None,
) -> Secrets | None:  # fmt: skip
    """Secrets out of files, never out of arguments that other users of the machine can see."""
    if not (secrets_file or wifi_file or password_file or stream_file):
        return None
    values = read_secrets(secrets_file) if secrets_file else Secrets()
    return Secrets(
        wifi_password=_line(wifi_file) if wifi_file else values.wifi_password,
        password=_line(password_file) if password_file else values.password,
        stream_password=_line(stream_file) if stream_file else values.stream_password,
    )


class Card:
    """The FAT partition of an image.

    Args:
        image: Disk image.

    Raises:
        InputError: No such partition, or mtools is missing.
    """

    def __init__(self, image: Path) -> None:
        if shutil.which("mcopy") is None:
            raise InputError("mcopy is missing; install mtools (apt install mtools)")
        self._drive = f"{image}@@{find_partition(image, ESP).start}"
        self._image = image

    def read(self, name: str) -> bytes | None:
        """A file of its root folder, None where there is none."""
        done = subprocess.run(["mtype", "-i", self._drive, f"::/{name}"], capture_output=True)
        return done.stdout if done.returncode == 0 else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file into its root folder and reads it back. Raises InputError."""
        command = ["mcopy", "-o", "-i", self._drive, "-", f"::/{name}"]
        done = subprocess.run(command, input=data, capture_output=True)
        if done.returncode or self.read(name) != data:
            problem = done.stderr.decode(errors="replace").strip() or "it reads back differently"
            raise InputError(f"{name} cannot be written into {self._image}: {problem}")


def _line(path: Path) -> str:
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); check it") from error
