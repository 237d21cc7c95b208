"""`veilcam search`: substitutes of one picture to give to an image search engine.

What is searched for stays: objects, scene, composition. People are replaced and notes are gone.
On request the picture is also changed so far that perceptual hashes of the original miss it.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.album_files import load_pillow, read_picture
from veilcam.camera.audit_recognizers import load_features, model_folders
from veilcam.camera.cast import NOBODY, Cast
from veilcam.camera.errors import ConfigError, SinkError, SourceError
from veilcam.camera.manifest import load_bundle
from veilcam.camera.picture_files import WRITTEN, kind_of, read_image, write_whole
from veilcam.camera.pictures import StillProtector, check_mode, to_strength
from veilcam.camera.search_hashes import NAMES, Reference, load_hashers
from veilcam.camera.search_match import Content, Features, escape
from veilcam.camera.social import Size, sized
from veilcam.camera.strength import DEFAULT
from veilcam.camera.types import SafeFrame

DISTANCE = 0.25  # of a hash's bits: 16 of 64; matchers stop at 10 of 64
_SAVE: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 90, "optimize": True},
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP", "quality": 88},
}
Bgr = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What the command line asks for.

    Attributes:
        num: Variants; each draws new stand-ins and a new edit.
        defeats_matching: Edit until every hash is `distance` away.
        distance: Share of a hash's bits, 0-1.
        models: Folder with the content net; by default where `veilcam audit` looks.
        cast: Prompts of the stand-ins.
    """

    mode: str = "face"
    strength: str = DEFAULT
    size: Size = Size.MEDIUM
    bundle: Path | None = None
    num: int = 1
    defeats_matching: bool = False
    distance: float = DISTANCE
    models: Path | None = None
    cast: Cast = NOBODY


class QueryMaker:
    """Makes substitutes of pictures in memory.

    Raises:
        ConfigError: An unknown mode or strength, or the hashes are wanted and not installed.
        GraphError: The bundle is missing or was changed.
    """

    def __init__(self, options: SearchOptions) -> None:
        check_mode(options.mode, options.cast)
        if options.mode != "face":
            raise ConfigError(f"mode {options.mode} leaves nothing to search by; wanted face")
        self._options = options
        self._missing = _missing_hashers()
        if options.defeats_matching and self._missing:
            raise ConfigError(self._missing)
        self.bundle = load_bundle(options.bundle)
        self._features = load_features(model_folders(options.models))
        self._protect = StillProtector(
            self.bundle, strength=to_strength(options.strength), cast=options.cast
        )

    def __call__(self, raw_bgr: Bgr, kind: str) -> list[tuple[bytes, dict[str, Any]]]:
        """File content and report of each variant.

        Args:
            raw_bgr: The original.
            kind: JPEG, PNG or WebP.

        Raises:
            SourceError: Analysis cannot vouch for it, or no edit goes far enough.
        """
        reference = None if self._missing else Reference(raw_bgr)
        made = []
        for _ in range(self._options.num):
            safe = self._protect(raw_bgr)
            if safe.reason:
                raise SourceError(f"cannot be vouched for: {safe.reason}; nothing was written")
            data, report = _variant(safe, kind, reference, self._features, self._options)
            made.append((data, {"heads_replaced": self._protect.heads_replaced, **report}))
        return made

    @property
    def no_hashes_because(self) -> str | None:
        """Why there are no hash distances; None where there are."""
        return self._missing or None


def make_queries(image: Path, out: Path, options: SearchOptions) -> dict[str, Any]:
    """Writes one or more substitutes of a picture; the report comes back.

    With several, `out` gets their numbers: q.jpg, q-1.jpg, q-2.jpg.

    Raises:
        InputError: The picture cannot be read or vouched for, no edit goes far enough, or `out` is
            no name for a picture. Then nothing is written.
        ConfigError: See `QueryMaker`.
    """
    kind = kind_of(out, WRITTEN)
    outs = names_of(out, options.num)
    if image.resolve() in {path.resolve() for path in outs}:
        raise SinkError(f"{image} is the original itself; give another name than {out}")
    maker = QueryMaker(options)
    try:
        made = maker(read_image(image), kind)
    except SourceError as error:
        told = str(error)
        raise SourceError(told if told.startswith(str(image)) else f"{image} {told}") from error
    for path, (data, _) in zip(outs, made, strict=True):
        write_whole(path, data)
    return {
        "variants": [
            {"out": str(path), **report} for path, (_, report) in zip(outs, made, strict=True)
        ],
        "heads_replaced": made[0][1]["heads_replaced"],
        "mode": options.mode,
        "strength": options.strength,
        "defeat_matching": options.defeats_matching,
        "no_hash_distances_because": maker.no_hashes_because,
        "credentials": None,
        "bundle_sha256": maker.bundle.sha256,
    }


def names_of(out: Path, num: int) -> list[Path]:
    """File names of variants.

    >>> [path.name for path in names_of(Path("q.jpg"), 2)], names_of(Path("q.jpg"), 1)[0].name
    (['q-1.jpg', 'q-2.jpg'], 'q.jpg')
    """
    if num == 1:
        return [out]
    return [out.with_stem(f"{out.stem}-{number}") for number in range(1, num + 1)]


def _missing_hashers() -> str:
    try:
        load_hashers()
    except ConfigError as error:
        return str(error)
    return ""


def _variant(
    safe: SafeFrame, kind: str, reference: Reference | None, features: Features | None,
    options: SearchOptions,
) -> tuple[bytes, dict[str, Any]]:  # fmt: skip
    """File and report of one substitute. Takes a SafeFrame only: what is edited is safe."""
    if not isinstance(safe, SafeFrame):
        raise TypeError(f"only a SafeFrame may be written, got {type(safe).__name__}")
    plain = sized(safe.bgr, options.size)
    level, similarity, bgr, data = 0.0, None, plain, _encode(plain, kind)
    if reference is not None and options.defeats_matching:
        files: list[bytes] = []

        def as_written(pixels: Bgr) -> Bgr:
            files.append(_encode(pixels, kind))
            return read_picture(files[-1], kind)

        found = escape(plain, reference, options.distance, features=features, as_written=as_written)
        level, similarity, bgr, data = found.level, found.similarity, found.bgr, files[-1]
    elif features is not None:
        similarity = Content(features, plain).similarity(bgr)
    return data, {
        "width": bgr.shape[1],
        "height": bgr.shape[0],
        "edit": level,
        "feature_similarity": similarity,
        "hash_distances": None if reference is None else _told(reference, plain, bgr, options),
    }


def _told(
    reference: Reference, plain: Bgr, bgr: Bgr, options: SearchOptions
) -> dict[str, dict[str, int | None]]:
    before, after = reference.distances(plain), reference.distances(bgr)
    wanted = reference.wanted(options.distance) if options.defeats_matching else {}
    return {
        name: {
            "bits": reference.num_bits[name], "before": before[name], "after": after[name],
            "wanted": wanted.get(name),
        }
        for name in NAMES
    }  # fmt: skip


def _encode(bgr: Bgr, kind: str) -> bytes:
    """A file that holds nothing but pixels."""
    image, memory = load_pillow(), io.BytesIO()
    image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).save(memory, **_SAVE[kind])
    return memory.getvalue()


def to_text(value: dict[str, Any]) -> str:
    """What `search` made, for people."""
    lines = []
    for made in value["variants"]:
        lines.append(
            f"{made['out']}: {made['width']}x{made['height']}, heads replaced:"
            f" {made['heads_replaced']}, notes: none"
        )
        if made["feature_similarity"] is not None and made["edit"]:
            lines.append(f"  content likeness to the unedited: {made['feature_similarity']:.2f}")
        for name, bits in (made["hash_distances"] or {}).items():
            wanted = f", wanted {bits['wanted']}" if bits["wanted"] is not None else ""
            lines.append(
                f"  {name}: {bits['after']} of {bits['bits']} bits differ{wanted}"
                f" (unedited {bits['before']})"
            )
    if value["no_hash_distances_because"]:
        lines.append(value["no_hash_distances_because"])
    return "\n".join(lines)
