"""Who plays whom: prompts for the people in a picture, `--prompt` and `--cast FILE`.

A cast travels to the capture process in its settings, as plain texts. With a prompt the static part
of a stand-in comes from words and noise only; the person in the picture adds nothing to it.

Standard library only: both processes read this before their barriers are up.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from veilcam.camera.errors import ConfigError

MAX_PEOPLE = 32
MAX_CHARS = 200  # of a prompt
TEXT_PART = "text.veil"  # what words need; lies beside the bundle that it is for
_OTHERS = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Prompts by the order in which people appear.

    Attributes:
        people: Of the first, second, ... person; an empty one says nothing.
        others: Of everybody else; empty: drawn as without words.
    """

    people: tuple[str, ...] = ()
    others: str = ""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt once, in order."""
        return tuple(dict.fromkeys(p for p in (*self.people, self.others) if p))

    def to_values(self) -> dict[str, str]:
        """For settings: person's number, or `others`, -> prompt."""
        numbered = {str(number): prompt for number, prompt in enumerate(self.people, start=1)}
        return numbered | ({_OTHERS: self.others} if self.others else {})

    def prompt_of(self, index: int) -> str:
        """What was said of the person who appeared as number `index`, from 0."""
        return self.people[index] if index < len(self.people) else self.others


NOBODY = Cast()


def cast_of_values(values: dict[str, Any]) -> Cast:
    """A cast out of settings. Raises ValueError where it is none.

    >>> cast_of_values({"2": "a girl", "others": "a man"})
    Cast(people=('', 'a girl'), others='a man')
    """
    people = [""] * MAX_PEOPLE
    for name, prompt in values.items():
        if not isinstance(prompt, str) or len(prompt) > MAX_CHARS:
            raise ValueError(f"person {name}: wanted a text of at most {MAX_CHARS} letters")
        if name == _OTHERS:
            continue
        if not (name.isascii() and name.isdigit() and 1 <= int(name) <= MAX_PEOPLE):
            raise ValueError(f"got person {name!r}, wanted 1 to {MAX_PEOPLE} or {_OTHERS}")
        people[int(name) - 1] = prompt.strip()
    while people and not people[-1]:
        people.pop()
    return Cast(people=tuple(people), others=values.get(_OTHERS, "").strip())


def read_cast(path: Path) -> Cast:
    """The cast of a TOML file: `1 = "..."`, `2 = "..."`, `others = "..."`.

    Raises:
        ConfigError: It cannot be read, is no TOML, or holds anything else.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(
            f'{path} cannot be read as TOML ({what}); wanted lines like 1 = "an old man"'
        ) from error
    if not values:
        raise ConfigError(f'{path} casts nobody; wanted lines like 1 = "an old man"')
    try:
        return cast_of_values(values)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def cast_of_options(prompt: str | None, file: Path | None) -> Cast | None:
    """The cast of `--prompt` and `--cast`; with both, the prompt is for those the file leaves out.

    Raises:
        ConfigError: The file is no cast, or the prompt is empty or too long.
    """
    if prompt is None and file is None:
        return None
    cast = read_cast(file) if file is not None else NOBODY
    if prompt is None:
        return cast
    if not prompt.strip():
        raise ConfigError("--prompt is empty; say whom you want, as in 'an old man with glasses'")
    if len(prompt) > MAX_CHARS:
        raise ConfigError(f"--prompt has {len(prompt)} letters, wanted at most {MAX_CHARS}")
    return Cast(people=cast.people, others=prompt.strip())


class _Chosen:
    """The cast of this process, set once before its encoder is made."""

    def __init__(self) -> None:
        self._lock, self._cast = Lock(), NOBODY

    def get(self) -> Cast:
        with self._lock:
            return self._cast

    def set(self, cast: Cast) -> None:
        with self._lock:
            self._cast = cast


_CHOSEN = _Chosen()


def chosen_cast() -> Cast:
    """The cast that new encoders of this process follow; an empty one where none was chosen."""
    return _CHOSEN.get()


def choose_cast(cast: Cast | None) -> None:
    """Set what `chosen_cast` gives; None for nobody."""
    _CHOSEN.set(cast or NOBODY)
