"""One picture in memory -> its safe twin: `veilcam.camera.protect`, and the engine behind it."""

from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from veilcam.camera.album_faces import StillAnalyser, StillFinder
from veilcam.camera.album_people import AlbumPeople, PeopleEncoder
from veilcam.camera.cast import NOBODY, Cast, cast_of_options
from veilcam.camera.casting import Caster
from veilcam.camera.code import Casting, Encoder
from veilcam.camera.errors import ConfigError, InputError
from veilcam.camera.generator import Generator
from veilcam.camera.loop import Loop
from veilcam.camera.manifest import Bundle, load_bundle
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource, check_size
from veilcam.camera.strength import CHOICES, DEFAULT, Strength
from veilcam.camera.text import TextPart
from veilcam.camera.track import Detection
from veilcam.camera.types import SafeFrame

MODES = ("face", "frame")


@runtime_checkable
class Protector(Protocol):
    """What makes safe twins in one mode.

    Attributes:
        bundle: What paints.
        heads_replaced: Heads, or in `frame` mode people, of the last picture.
    """

    bundle: Bundle
    heads_replaced: int

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> SafeFrame:
        """The twin of one picture; blank, with a reason, where it cannot be made."""


def protect(
    image_bgr: UInt8[np.ndarray, "h w 3"],
    *,
    mode: str = "face",
    strength: str = DEFAULT,
    bundle: str | Path | None = None,
    prompt: str | None = None,
) -> SafeFrame:
    """The picture with every head replaced by that of a person who does not exist.

    The first call loads the models and keeps them for the next ones. Every call draws new
    stand-ins, so the same picture gives another twin each time.

    Args:
        image_bgr: Raw pixels, uint8, (h, w, 3), blue-green-red, sides of 16 to 8192 pixels. It is
            read only.
        mode: `face`: all but heads stays as it is. `frame`: everything is painted anew from a
            coarse, noised code, see docs/frame.md.
        strength: `strict`, `balanced` or `faithful`: how much of a person's own may pass.
        bundle: Folder NAME.veil with weights; by default the one in the package.
        prompt: Who the stand-ins are, in words, as "a young woman with long black hair"; several
            people get several draws. Looks and skin come from the words then, not from the picture.

    Returns:
        A safe picture of the same size; `.bgr` holds its pixels. Where analysis cannot vouch for
        the picture it is blank, and `.reason` says why; it never holds the input instead.

    Raises:
        InputError: Not such an array, or no word of the prompt is known.
        ConfigError: Unknown mode or strength, an empty prompt, or a bundle without words.
        GraphError: The bundle is missing or was changed.

    Guarantees: in `face`, no output pixel depends on a pixel inside the region of a head that was
    found; people whose heads the detector does not see (turned away, very small) stay. In `frame`,
    no pixel of the input is in the output.

    >>> import numpy as np
    >>> import veilcam.camera
    >>> wall = np.full((64, 96, 3), 200, np.uint8)
    >>> safe = veilcam.camera.protect(wall)
    >>> safe.bgr.shape, safe.reason, bool((safe.bgr == wall).all())
    ((64, 96, 3), '', True)
    >>> veilcam.camera.protect(wall, mode="scene")
    Traceback (most recent call last):
    veilcam.camera.errors.ConfigError: mode 'scene' does not exist for pictures; wanted face, frame
    """
    cast = cast_of_options(prompt, None)
    check_mode(mode, cast)
    path = str(bundle) if bundle is not None else ""
    _check(image_bgr)
    return _shared(mode, path, to_strength(strength), cast)(image_bgr)


def check_mode(mode: str, cast: Cast | None = None) -> None:
    """Raises ConfigError for a mode that pictures have not, or words where none are painted by."""
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r} does not exist for pictures; wanted {', '.join(MODES)}")
    if mode == "frame" and cast is not None and cast.prompts:
        raise ConfigError("words cast heads, and mode frame paints none; leave the words out")


def make_protector(
    mode: str,
    bundle: Path | None,
    *,
    strength: Strength,
    cast: Cast | None = None,
    people: AlbumPeople | None = None,
) -> Protector:
    """What makes safe twins in a mode; arguments as of `StillProtector`, by a bundle's folder.

    Raises:
        ConfigError: See `check_mode`.
        GraphError: The bundle is missing or was changed.
    """
    check_mode(mode, cast)
    if mode == "frame":
        from veilcam.camera.frame_still import FrameProtector

        return FrameProtector(bundle, strength=strength)
    return StillProtector(load_bundle(bundle), strength=strength, cast=cast, people=people)


def to_strength(name: str) -> Strength:
    """The strength of a name. Raises ConfigError for one that is none."""
    if name not in CHOICES:
        raise ConfigError(f"strength {name!r}: wanted {', '.join(CHOICES)}")
    return Strength(name)


@lru_cache(maxsize=1)
def _shared(mode: str, bundle: str, strength: Strength, cast: Cast | None) -> Protector:
    return make_protector(mode, Path(bundle) if bundle else None, strength=strength, cast=cast)


class StillProtector:
    """The camera's own loop on single pictures. One thread at a time.

    Args:
        bundle: Verified bundle.
        strength: How much of a person's own may pass.
        threads: Threads of the generator.
        cast: Prompts of the stand-ins, by the order in which heads are found.
        people: Gives people who were in an earlier picture the stand-in that they had there.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        strength: Strength = DEFAULT,
        threads: int = 1,
        cast: Cast | None = None,
        people: AlbumPeople | None = None,
    ) -> None:
        self.bundle, self._strength, self._people = bundle, strength, people
        self._cast = cast if cast is not None else NOBODY
        self._text = TextPart(bundle) if self._cast.prompts else None
        self._casting: Casting | None = None
        if self._text is not None:
            Caster(self._text, self._cast)  # says now what is wrong with a prompt
        self._finder = StillFinder()
        self._analyser = StillAnalyser()
        self._generator = Generator(bundle, threads=threads)
        self.heads_replaced = 0

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> SafeFrame:
        """The safe twin of one picture, see `protect`; `heads_replaced` tells of how many heads."""
        _check(bgr)
        size_hw = (bgr.shape[0], bgr.shape[1])
        self.heads_replaced = 0
        if self._people is not None:
            self._people.begin()
        if self._text is not None:  # counts people anew
            self._casting = Caster(self._text, self._cast)
        try:
            faces = self._finder(bgr)
        except Exception as error:  # a picture that cannot be searched must not pass
            return _blank(size_hw, f"analyse failed: {type(error).__name__}")
        # Heads that lie are replaced first, in the turned picture; the last pass is the upright
        # one, and what it gives is a picture as compose made it.
        for turn in (1, 2, 3):
            if turn not in faces.by_turn:
                continue
            here = faces.by_turn[turn]
            self._analyser.take(here)
            safe = self._run(np.ascontiguousarray(np.rot90(bgr, turn)), here)
            if safe.reason:
                return _blank(size_hw, safe.reason)
            bgr = np.ascontiguousarray(np.rot90(safe.bgr, -turn))
        here = faces.by_turn.get(0, ())
        self._analyser.take(here, is_full=faces.is_full)
        return self._run(bgr, here)

    def _run(self, bgr: UInt8[np.ndarray, "h w 3"], faces: tuple[Detection, ...]) -> SafeFrame:
        sink = MemorySink()
        encoder: Encoder | PeopleEncoder = self._encoder(self._casting)
        if self._people is not None:
            try:
                self._people.look(bgr, faces)
            except Exception as error:  # who cannot be told apart must not pass either
                size_hw = (bgr.shape[0], bgr.shape[1])
                return _blank(size_hw, f"recognize failed: {type(error).__name__}")
            encoder = PeopleEncoder(self._people, self._encoder, self._casting)
        loop = Loop(ArraySource([bgr]), self._analyser, encoder, self._generator, sink)
        self.heads_replaced += loop.run().heads_replaced
        return sink.frames[-1]

    def _encoder(self, casting: Casting | None) -> Encoder:
        """A new one for each picture: it forgets who was in the last one."""
        bundle = self.bundle
        return Encoder(
            bundle.mean, bundle.chol, bundle.skin, strength=self._strength, casting=casting
        )


def _check(bgr: UInt8[np.ndarray, "h w 3"]) -> None:
    if not isinstance(bgr, np.ndarray) or bgr.dtype != np.uint8 or bgr.ndim != 3:
        kind = f"{bgr.dtype} {bgr.shape}" if isinstance(bgr, np.ndarray) else type(bgr).__name__
        raise InputError(f"got {kind}, wanted a uint8 array (h, w, 3), blue-green-red")
    if bgr.shape[2] != 3:
        raise InputError(f"got {bgr.shape[2]} channels, wanted 3: blue, green, red")
    check_size((bgr.shape[0], bgr.shape[1]), "picture")


def _blank(size_hw: tuple[int, int], reason: str) -> SafeFrame:
    return SafeFrame.blank(size_hw, index=0, time_s=0.0, reason=reason)
