"""`veilcam imagine`: a sheet of people who do not exist, from words alone."""

import math
import secrets
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from veilcam.camera.cast import MAX_CHARS
from veilcam.camera.casting import agreed, warnings_of
from veilcam.camera.compose import compose
from veilcam.camera.errors import InputError, SinkError
from veilcam.camera.generator import Generator
from veilcam.camera.light import SKIN_CLASSES
from veilcam.camera.manifest import Bundle, load_bundle
from veilcam.camera.text import Person, TextPart
from veilcam.camera.types import Codes, Frame, HeadCode, Patches, SafeFrame

CELL_PX = 192
_BACKGROUND = 176


def imagine(
    prompt: str, out: Path, *, num_people: int = 8, bundle: Path | None = None
) -> dict[str, Any]:
    """Writes a PNG with people that a prompt describes; the report comes back.

    Noise comes from the operating system: the same prompt gives other people each time.

    Raises:
        InputError: No word is known, or `out` is no PNG.
        ConfigError: The bundle has no text part.
        SinkError: `out` cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: got suffix {out.suffix!r}, wanted .png")
    if len(prompt) > MAX_CHARS:
        raise InputError(f"the prompt has {len(prompt)} letters, wanted at most {MAX_CHARS}")
    loaded = load_bundle(bundle)
    part = TextPart(loaded)
    random = np.random.default_rng(secrets.randbits(128))
    ids, unknown = part.read(prompt)
    people = [part.draw(ids, random) for _ in range(num_people)]
    columns = min(num_people, max(4, math.ceil(math.sqrt(num_people))))
    safe = paint_people(people, loaded, columns=columns)
    done, data = cv2.imencode(".png", safe.bgr)
    if not done:
        raise SinkError(f"{out} cannot be encoded; try fewer people")
    write_over(out, data.tobytes())
    return {
        "out": str(out),
        "prompt": prompt,
        "people": [person.tokens.looks for person in people],
        "understood": agreed([person.tokens for person in people]),
        "unknown_words": list(unknown),
        "warnings": warnings_of(part, prompt, random, paints_expression=True),
        "bundle_sha256": loaded.sha256,
    }


def paint_people(people: list[Person], bundle: Bundle, *, columns: int) -> SafeFrame:
    """The people side by side on flat grey, as compose lays stand-ins into a picture."""
    generator = Generator(bundle, precision="int8", threads=2)
    rows = math.ceil(len(people) / columns)
    size_hw = (rows * CELL_PX, columns * CELL_PX)
    flat = Frame(np.full((*size_hw, 3), _BACKGROUND, np.uint8), 0, 0.0)
    heads, patches = [], []
    for index, person in enumerate(people):
        row, column = divmod(index, columns)
        heads.append(_head(person, index, ((column + 0.5) * CELL_PX, (row + 0.5) * CELL_PX)))
        patches.append(generator.paint(person.tokens.values, person.latent))
    codes = Codes(size_hw=size_hw, heads=tuple(heads), blank_reason="")
    return compose(flat, codes, Patches(bgra=tuple(patches)))


def _head(person: Person, index: int, center_xy: tuple[float, float]) -> HeadCode:
    middle = np.asarray(center_xy)
    return HeadCode(
        track_id=index,
        levels=(),
        values=person.tokens.values,
        latent=person.latent,
        center_xy=center_xy,
        size_px=float(CELL_PX),
        roll_deg=0.0,
        skin_bgr=SKIN_CLASSES[person.skin_class],
        hull_xy=middle + np.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]]),  # nothing to hide
    )


def write_over(out: Path, data: bytes) -> None:
    """A file under its final name only once it is whole."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SinkError(
            f"{out} cannot be written ({error.strerror}); give a name in a folder that exists"
        ) from error


def to_text(report: dict[str, Any]) -> str:
    """For people: where the sheet is, and what was understood."""
    understood = ", ".join(f"{look} {value}" for look, value in report["understood"].items())
    num = len(report["people"])
    return f"{report['out']}: {num} people\nunderstood: {understood or 'nothing about looks'}"
