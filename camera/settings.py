"""What the supervisor tells both processes before anything else; standard library only."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from veilcam.camera.asked import Asked
from veilcam.camera.cast import cast_of_values, choose_cast, chosen_cast
from veilcam.camera.control import ProtocolError
from veilcam.camera.patience import patience
from veilcam.camera.strength import CHOICES, choose, chosen
from veilcam.camera.watch_choice import choose_watch, watch_chosen

PROFILE_KEYS = ("precision", "threads", "execution_provider")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run, in plain values.

    Attributes:
        source, sink: As on the command line; paths of files made absolute.
        mode: Which builder capture uses (`capture.BUILDERS`).
        bundle: Absolute path, or empty for the package's own.
        delay_frames: Frames of look-ahead.
        max_frames: Stop after so many, 0 for no limit.
        profile: The device profile's keys in `PROFILE_KEYS`.
        live_limit_s, clip_limit_s: Longest time without a frame before a blank is shown and
            capture is started anew; for a clip the sink may wait longer.
        source_limit_s: Longest time a live source may give nothing before it is opened anew. By
            default 1, 10 and 10 s times `patience`.
        strength: How much of a person's own may pass; by default what this process has chosen.
        asked: What a webcam is asked for, the fields of `asked.Asked`; those left out are its
            defaults.
        audit: Whether an audit runs beside the loop; by default as chosen here.
        cast: Prompts of stand-ins, see `cast.Cast.to_values`; by default as chosen here.
    """

    source: str
    sink: str
    mode: str = "face"
    bundle: str = ""
    delay_frames: int = 0
    max_frames: int = 0
    profile: dict[str, Any] = field(default_factory=dict)
    live_limit_s: float = field(default_factory=patience)
    clip_limit_s: float = field(default_factory=lambda: 10.0 * patience())
    source_limit_s: float = field(default_factory=lambda: 10.0 * patience())
    strength: str = field(default_factory=lambda: chosen().value)
    asked: dict[str, int] = field(default_factory=dict)
    audit: bool = field(default_factory=watch_chosen)
    cast: dict[str, str] = field(default_factory=lambda: chosen_cast().to_values())

    def to_values(self) -> dict[str, Any]:
        """For a `control.Setup`."""
        return asdict(self)


def from_values(values: dict[str, Any]) -> Settings:
    """Settings out of a `control.Setup`; their strength and cast become this process's.

    Raises:
        ProtocolError: They are no settings.
    """
    kinds: dict[str, type] = dict.fromkeys(("source", "sink", "mode", "bundle", "strength"), str)
    kinds["audit"] = bool
    kinds |= dict.fromkeys(("delay_frames", "max_frames"), int)
    kinds |= dict.fromkeys(("profile", "cast", "asked"), dict)
    kinds |= dict.fromkeys(("live_limit_s", "clip_limit_s", "source_limit_s"), float)
    if set(values) != set(kinds) or any(type(values[k]) is not kinds[k] for k in kinds):
        raise ProtocolError("wrong settings")
    if not set(values["asked"]) <= {entry.name for entry in fields(Asked)}:
        raise ProtocolError("wrong settings")
    if values["strength"] not in CHOICES:
        raise ProtocolError("wrong settings")
    try:
        choose_cast(cast_of_values(values["cast"]))
    except ValueError as error:
        raise ProtocolError("wrong cast") from error
    choose(values["strength"])
    choose_watch(values["audit"])
    return Settings(**values)
