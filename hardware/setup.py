"""At every start of a device: takes settings from the card, gives the system what they ask for.

Runs as root before network and camera. Settings that are broken do not stop a start: the last good
ones hold, or the strictest, and the screen says what is wrong. Secrets leave the card's open
partition at once; of the page's password only a hash is kept. A device without one makes one up and
shows it on its screen, once.
"""

import logging
import os
import pwd
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from veilcam.camera import serve_password
from veilcam.camera.errors import VeilcamError
from veilcam.camera.rtsp_login import PASSWORD_VARIABLE, PATH, PORT, USER
from veilcam.hardware.leftovers import remove_passed_over, running_version
from veilcam.hardware.settings import (
    SECRETS_FILE,
    SETTINGS_FILE,
    Secrets,
    Settings,
    read_secrets,
    read_settings,
    to_toml,
)

_log = logging.getLogger(__name__)
_SERVICE_USER = "veilcam"


def main() -> int:
    """Sets this device up; 0 even where settings were broken, so that it starts."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    root = Path("/")
    if version := running_version(root / "etc/os-release"):
        try:
            remove_passed_over(root / "boot/EFI/Linux", version)
        except OSError as error:
            _log.error("boot partition: %s", error.strerror)
    settings, secrets = take_over(root / "boot", root / "data")
    password = keep_password(secrets, root / "data" / "page")
    secrets, made_up = with_stream_password(settings, secrets, root / "data")
    if made_up:
        sys.stdout.write(
            f"\n  rtsp://{USER}@{settings.name}.local:{PORT}{PATH}\n"
            f"  Password: {made_up}\n  It is shown this once.\n\n"
        )
    write_system(settings, secrets, root)
    if password:
        sys.stdout.write(
            f"\n  Veilcam: http://{settings.name}.local/\n  Password: {password}\n"
            "  It is shown this once. Only its hash is kept.\n\n"
        )
    _start(settings)
    return 0


def take_over(card: Path, data: Path) -> tuple[Settings, Secrets]:
    """Settings and secrets that hold now; the secrets are gone from `card` afterwards.

    Args:
        card: The partition that every computer can read.
        data: The partition for what must survive, root's only.
    """
    return _settings(card / SETTINGS_FILE, data / SETTINGS_FILE), _secrets(card, data)


def _settings(edited: Path, last_good: Path) -> Settings:
    is_broken = False
    for path in (edited, last_good):
        if not path.is_file():
            continue
        try:
            settings = read_settings(path, skipped=_ignored)
        except VeilcamError as error:
            _log.error("%s; the last good settings hold", error)
            is_broken = True
            continue
        if path is edited:
            _replace(last_good, to_toml(settings))
        return settings
    # Somebody chose something that cannot be read: it may have been more than the default gives.
    return Settings(strength="strict") if is_broken else Settings()


def _ignored(problem: str) -> None:
    # A file may have been written for another version, after an update or its return: what this
    # one does not know must not cost the user all the rest.
    _log.error("%s; ignored", problem)


def _secrets(card: Path, data: Path) -> Secrets:
    kept_at, brought_at = data / SECRETS_FILE, card / SECRETS_FILE
    kept = Secrets()
    if kept_at.is_file():
        kept = read_secrets(kept_at, skipped=_ignored)
    if not brought_at.is_file():
        return kept
    try:
        brought = read_secrets(brought_at)
    except VeilcamError as error:
        _log.error("%s; it was removed, bring it anew", error)
        brought = Secrets()
    if brought.wifi_password or brought.stream_password:
        kept = replace(
            kept, wifi_password=brought.wifi_password or kept.wifi_password,
            stream_password=brought.stream_password or kept.stream_password,
        )  # fmt: skip
        keep_secrets(kept, data)
    _erase(brought_at)
    return replace(kept, password=brought.password)


def with_stream_password(
    settings: Settings, secrets: Secrets, data: Path
) -> tuple[Secrets, str]:  # fmt: skip
    """Secrets with a password for RTSP where it is on; that password where it was made up here."""
    if not settings.rtsp or secrets.stream_password:
        return secrets, ""
    made_up = serve_password.generate()
    keep_secrets(replace(secrets, stream_password=made_up), data)
    return replace(secrets, stream_password=made_up), made_up


def keep_secrets(secrets: Secrets, data: Path) -> None:
    """Those that must be known as they are, where only root reads; the page's is not among them."""
    _replace(data / SECRETS_FILE, to_toml(replace(secrets, password="")))


def keep_password(secrets: Secrets, folder: Path) -> str:
    """Keeps the hash of the page's password; the password itself where it was made up here."""
    path = folder / "veilcam" / "password"
    made_up = ""
    if secrets.password:
        serve_password.save(secrets.password, path)
    elif not path.is_file():
        made_up = serve_password.generate()
        serve_password.save(made_up, path)
    try:
        user = pwd.getpwnam(_SERVICE_USER)
    except KeyError:  # not on a device
        return made_up
    for entry, mode in ((path, 0o400), (path.parent, 0o500), (folder, 0o500)):
        os.chown(entry, user.pw_uid, user.pw_gid)
        entry.chmod(mode)
    return made_up


def write_system(settings: Settings, secrets: Secrets, root: Path) -> None:
    """Writes what other programs of the device read. All of it lies in memory.

    Args:
        settings: What the user chose.
        secrets: The passwords of Wi-Fi and RTSP among them.
        root: The root folder; a test's own.
    """
    _write(root / "etc/hostname", f"{settings.name}\n")
    _write(root / "etc/hosts", f"127.0.0.1 localhost {settings.name}\n::1 localhost\n")
    zone = root / "usr/share/zoneinfo" / settings.timezone
    if zone.is_file():
        local = root / "etc/localtime"
        local.unlink(missing_ok=True)
        local.symlink_to(f"../usr/share/zoneinfo/{settings.timezone}")
    else:
        _log.error("timezone %s is unknown; UTC holds", settings.timezone)
    run = root / "run/veilcam"
    values = {
        "SOURCE": settings.source, "MODE": settings.mode, "STRENGTH": settings.strength,
        "PROMPT": settings.prompt, "SIZE": settings.size, "FPS": str(settings.fps),
        "MORE": "",
    }  # fmt: skip
    if settings.rtsp:
        more = {"MORE": f"--rtsp-port {PORT}", PASSWORD_VARIABLE: secrets.stream_password}
        values |= more
    _write(run / "environment", "".join(f"{k}={_quoted(v)}\n" for k, v in values.items()))
    switches = {
        "web": settings.web, "rtsp": settings.rtsp, "update": settings.update_url,
        "light": settings.light,
    }  # fmt: skip
    for name, value in switches.items():
        (run / name).unlink(missing_ok=True)
        if value:
            _write(run / name, f"LIGHT={_quoted(settings.light)}\n" if name == "light" else "")
    if settings.wifi_ssid:
        _write(root / "etc/wpa_supplicant/wpa_supplicant-wlan0.conf", wifi_text(settings, secrets))
    if settings.ssh_key:
        _write(root / "root/.ssh/authorized_keys", f"{settings.ssh_key}\n")
    if settings.update_url:
        for path in sorted((root / "usr/share/veilcam").glob("*.transfer")):
            text = path.read_text().replace("@UPDATE_URL@", settings.update_url)
            _write(root / "run/sysupdate.d" / path.name, text, mode=0o644)


def wifi_text(settings: Settings, secrets: Secrets) -> str:
    """Settings of wpa_supplicant, in which no letter of name or password can end its line."""
    key = secrets.wifi_password
    if not key:
        secure = "key_mgmt=NONE"
    elif len(key) == 64:
        secure = f"psk={key}"
    else:
        # The program reads up to the last quote of the line. WPA3 where the router has it.
        secure = f'psk="{key}"\n  key_mgmt=WPA-PSK SAE\n  ieee80211w=1'
    country = f"country={settings.wifi_country}\n" if settings.wifi_country else ""
    ssid = settings.wifi_ssid.encode().hex()
    return f"{country}network={{\n  ssid={ssid}\n  {secure}\n}}\n"


def _quoted(value: str) -> str:
    """For an EnvironmentFile of systemd."""
    escaped = "".join(f"\\{letter}" if letter in '"\\`$' else letter for letter in value)
    return f'"{escaped}"'


def _start(settings: Settings) -> None:
    """Names the running system and starts what only some devices have."""
    Path("/proc/sys/kernel/hostname").write_text(settings.name)
    units = []
    if settings.wifi_ssid:
        units.append("wpa_supplicant@wlan0.service")
    if settings.ssh_key:
        key = Path("/data/ssh_host_ed25519_key")
        if not key.is_file():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            subprocess.run(command, check=False)
        units.append("ssh.service")
    if units:
        subprocess.run(["systemctl", "start", "--no-block", *units], check=False)


def _replace(path: Path, text: str) -> None:
    """Under its final name only when it is whole, also after a power cut."""
    temporary = path.with_name(f".{path.name}.new")
    _write(temporary, text)
    descriptor = os.open(temporary, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    temporary.replace(path)


def _write(path: Path, text: str, *, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644 if path.parts[-2:-1] == ("etc",) else mode)


def _erase(path: Path) -> None:
    """Overwritten first; a card may keep an old copy all the same (see docs/device.md)."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


if __name__ == "__main__":
    sys.exit(main())
