"""The page's one password: made once, kept as an argon2 hash that only its owner can read."""

import importlib
import os
import secrets
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError

MIN_LENGTH = 10
MAX_LENGTH = 200
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that are taken for another
_GROUPS, _GROUP = 4, 4


def password_path() -> Path:
    """Where the hash is kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "veilcam" / "password"


def generate() -> str:
    """A password of 16 letters and digits, 79 bits: `abcd-efgh-jkmn-pqrs`."""
    groups = ("".join(secrets.choice(_LETTERS) for _ in range(_GROUP)) for _ in range(_GROUPS))
    return "-".join(groups)


def check_new(password: str) -> None:
    """Raises ConfigError for a password that cannot be taken."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ConfigError(
            f"the password has {len(password)} characters, wanted {MIN_LENGTH} to {MAX_LENGTH}; "
            "four or five words do well"
        )


def save(password: str, path: Path | None = None) -> Path:
    """Keeps the hash of a password under its final name, mode 0600; where it is comes back.

    Raises:
        ConfigError: Too short, or the folder cannot be written.
    """
    check_new(password)
    path = path or password_path()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w") as file:
            file.write(_hasher().hash(password) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}; set XDG_CONFIG_HOME to a folder of yours"
        ) from error
    return path


def load(path: Path | None = None) -> str | None:
    """The hash that is kept, None where no password was set yet.

    Raises:
        ConfigError: It cannot be read, is no hash, or others may read or write it.
    """
    path = path or password_path()
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}); run `veilcam serve --set-password`"
        ) from error
    if mode & 0o077:
        raise ConfigError(f"{path} is open to others (mode {mode & 0o777:o}); run chmod 600 {path}")
    if not text.startswith("$argon2id$"):
        raise ConfigError(f"{path} holds no password hash; run `veilcam serve --set-password`")
    return text


def hashed(password: str) -> str:
    """Its argon2 hash, for a run alone."""
    return str(_hasher().hash(password))


def is_right(password: str, stored: str) -> bool:
    """True for the password of that hash. Takes some 50 ms and 64 MiB on purpose."""
    argon2 = _argon2()
    if len(password) > MAX_LENGTH:
        return False
    try:
        return bool(_hasher().verify(stored, password))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _hasher() -> Any:
    """The library's own defaults. Source: RFC 9106, section 4, second recommendation."""
    return _argon2().PasswordHasher()


def _argon2() -> Any:
    try:
        return importlib.import_module("argon2")
    except ImportError as error:
        raise ConfigError("the page needs argon2-cffi: run ./scripts/setup serve") from error
