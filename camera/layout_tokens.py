"""Persons as tokens: box and facing, quantized; and tokens as actors who do not exist."""

import secrets
from dataclasses import dataclass
from math import exp, log

import numpy as np
from jaxtyping import Float32

from veilcam.camera.actor_code import COLOURS, FACING, Cast, framing, neutral_values
from veilcam.camera.layout_plan import NUM_TOKENS, TOKEN_FIELDS
from veilcam.camera.scene_types import ActorCode, Box, People, Person

_FIELDS = {field.name: field for field in TOKEN_FIELDS}
_HYSTERESIS = 0.25  # of a level's width
_PLACE_WEIGHT = 0.35  # of a new frame, after rounding
_LATENT_NOISE = 0.15
_MAX_HEIGHT = 3.9  # of the frame's longer side


@dataclass(frozen=True, slots=True)
class Token:
    """One person: levels of x, top, height, width and facing, in `TOKEN_FIELDS`' order.

    Attributes:
        track_id: Tells tokens of one run apart; not a part of what is counted in bits.
        levels: Without `is_there`.
    """

    track_id: int
    levels: tuple[int, int, int, int, int]

    def value(self, name: str) -> float:
        """Middle of the level of one field, in the field's unit."""
        index = list(_FIELDS).index(name) - 1
        return float(_FIELDS[name].dequantize(self.levels[index]))


def tokens_of(people: People) -> tuple[Token, ...]:
    """The largest persons as tokens.

    Raises:
        ValueError: A box is not finite.
    """
    found = sorted(people.people, key=lambda p: -p.box_xywh[2] * p.box_xywh[3])[:NUM_TOKENS]
    return tuple(_token(person, people.size_hw) for person in found)


def _token(person: Person, size_hw: tuple[int, int]) -> Token:
    x, y, width, height = person.box_xywh
    if not np.isfinite(person.box_xywh).all() or width <= 0 or height <= 0:
        raise ValueError("a person's box is not finite")
    numbers = (
        ("x", (x + width / 2) / size_hw[1]),
        ("top", y / size_hw[0]),
        ("height", log(height / size_hw[0])),
        ("width", log(width / height)),
        ("facing", _turned(person.facing_deg)),
    )
    a, b, c, d, e = (_FIELDS[name].quantize(value) for name, value in numbers)
    return Token(person.track_id, (a, b, c, d, e))


def _turned(degrees: float) -> float:
    """Half a level on and into the range, so that 0 is not between two levels."""
    step = _FIELDS["facing"].step
    return float((degrees + step / 2 + 180.0) % 360.0 - 180.0) if np.isfinite(degrees) else 0.0


def facing_of(token: Token) -> float:
    """Where the body faces in degrees, 0 the camera."""
    return token.value("facing") - _FIELDS["facing"].step / 2


def box_of(token: Token, size_hw: tuple[int, int]) -> Box:
    """Left, top, width, height of a token in pixels of a frame of that size."""
    height = exp(token.value("height")) * size_hw[0]
    width = exp(token.value("width")) * height
    return token.value("x") * size_hw[1] - width / 2, token.value("top") * size_hw[0], width, height


class _Actor:
    """Who plays one track: drawn once, knows nothing of the person but the track's tokens."""

    def __init__(self, cast: Cast, random: np.random.Generator) -> None:
        row = int(random.integers(len(cast.latents)))
        noise = random.standard_normal(cast.latents.shape[1])
        self.latent = (cast.latents[row] + _LATENT_NOISE * noise).astype(np.float32)
        self.values = neutral_values()
        self.values[COLOURS.start :] = cast.statics[row]
        self.numbers: Float32[np.ndarray, " 5"] | None = None


class Casting:
    """Tokens -> actors of the `scene` bundle, upright, each track by one of nobody's looks.

    Args:
        cast: People who do not exist.
    """

    def __init__(self, cast: Cast) -> None:
        self._cast, self._actors = cast, dict[int, _Actor]()
        self._random = np.random.default_rng(secrets.randbits(128))

    def __call__(
        self, tokens: tuple[Token, ...], size_hw: tuple[int, int]
    ) -> tuple[ActorCode, ...]:
        """One actor for each token, in the frame's pixels."""
        kept = {t.track_id: self._actors.get(t.track_id) for t in tokens}
        self._actors = {k: v or _Actor(self._cast, self._random) for k, v in kept.items()}
        return tuple(self._place(token, self._actors[token.track_id], size_hw) for token in tokens)

    def _place(self, token: Token, actor: _Actor, size_hw: tuple[int, int]) -> ActorCode:
        left, top, height = framing(box_of(token, size_hw))
        height = min(height, _MAX_HEIGHT * max(size_hw))
        angle = np.deg2rad(facing_of(token))
        wanted = np.array([left, top, height, np.cos(angle), np.sin(angle)], np.float32)
        if actor.numbers is None:
            actor.numbers = wanted
        actor.numbers = actor.numbers + np.float32(_PLACE_WEIGHT) * (wanted - actor.numbers)
        left, top, height = (float(v) for v in actor.numbers[:3])
        values = actor.values.copy()
        values[FACING] = actor.numbers[3:]
        return ActorCode(
            track_id=token.track_id, levels=token.levels, values=values, latent=actor.latent,
            left=left, top=top, height=height, ground_y=top + 0.95 * height,
        )  # fmt: skip
