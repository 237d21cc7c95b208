"""Casts people by prompts: what is warned of before, and who plays each new person."""

import secrets
from collections import Counter
from collections.abc import Sequence

import numpy as np

from veilcam.camera.cast import Cast, chosen_cast
from veilcam.camera.code import Casting
from veilcam.camera.errors import InputError
from veilcam.camera.manifest import Bundle
from veilcam.camera.text import Person, TextPart, Tokens

_NUM_READY = 4
_PROBES = 8  # draws of tokens by which it is found out what a prompt speaks of


def check_cast(cast: Cast, bundle: Bundle, *, paints_expression: bool) -> tuple[str, ...]:
    """What a user should know before it starts: one warning a line.

    Args:
        cast: The prompts.
        bundle: The generator.
        paints_expression: False where pose and expression come from a camera.

    Raises:
        InputError: A prompt has no word that is known.
        ConfigError: The bundle has no text part.
    """
    part, warnings = TextPart(bundle), []
    random = np.random.default_rng(0)  # nobody is drawn here
    for prompt in cast.prompts:
        try:
            warnings += warnings_of(part, prompt, random, paints_expression=paints_expression)
        except InputError as error:
            raise InputError(f"'{prompt}': {error}" if len(cast.prompts) > 1 else str(error)) from (
                error
            )
    return tuple(dict.fromkeys(warnings))


def warnings_of(
    part: TextPart, prompt: str, random: np.random.Generator, *, paints_expression: bool
) -> list[str]:
    """Words that are not known, looks that are hardly painted, expressions without effect."""
    ids, unknown = part.read(prompt)
    warnings = []
    if unknown:
        warnings.append(f"words that are not known and were left out: {', '.join(unknown)[:300]}")
    drawn = [part.write(ids, random) for _ in range(_PROBES)]
    weak = [*part.weak_looks(agreed(drawn))]
    if paints_expression:
        weak += dict.fromkeys(name for tokens in drawn for name in part.weak_fields(tokens))
    if weak:
        warnings.append(f"this generator hardly paints: {', '.join(weak)}")
    if not paints_expression and any(tokens.has_expression for tokens in drawn):
        warnings.append("pose and expression come from the camera: words for them have no effect")
    return warnings


def agreed(drawn: Sequence[Tokens]) -> dict[str, str]:
    """Looks that were asked for in three of four draws or more, and as the same class."""
    counts = Counter(look for tokens in drawn for look in tokens.looks.items())
    return {name: value for (name, value), count in counts.items() if count >= 0.75 * len(drawn)}


class Caster:
    """Casts one person after the other.

    Args:
        part: Words for the bundle.
        cast: The prompts.
        num_ready: So many people of each prompt are drawn now, so that a live picture does not wait
            for the first ones.
    """

    def __init__(self, part: TextPart, cast: Cast, *, num_ready: int = 0) -> None:
        self._part, self._cast, self._num_cast = part, cast, 0
        self._ids = {prompt: part.read(prompt)[0] for prompt in cast.prompts}
        random = np.random.default_rng(secrets.randbits(128))
        self._ready = {
            prompt: [part.draw(ids, random) for _ in range(num_ready)]
            for prompt, ids in self._ids.items()
        }

    def __call__(self, random: np.random.Generator) -> Person | None:
        """Who plays the next person."""
        prompt = self._cast.prompt_of(self._num_cast)
        self._num_cast += 1
        if not prompt:
            return None
        if self._ready[prompt]:
            return self._ready[prompt].pop()
        return self._part.draw(self._ids[prompt], random)


def casting_for(bundle: Bundle, cast: Cast | None = None) -> Casting | None:
    """Casts people of a bundle by a cast, or by the process's own; None where nothing was said.

    Raises:
        ConfigError: The bundle has no text part.
    """
    cast = chosen_cast() if cast is None else cast
    if not cast.prompts:
        return None
    return Caster(TextPart(bundle), cast, num_ready=_NUM_READY)
