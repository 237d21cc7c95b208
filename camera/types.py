"""The values that flow through the loop: frozen, no logic, raw and safe pixels apart by type."""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One raw picture from a source. It is never pickled, shown or written, and dies with its step.

    Attributes:
        bgr: Raw pixels, uint8, blue-green-red.
        index: Running number in the source, from 0.
        time_s: Capture time in seconds on the source's own clock.
    """

    bgr: UInt8[np.ndarray, "h w 3"]
    index: int
    time_s: float

    def __repr__(self) -> str:
        return f"Frame(#{self.index}, {self.bgr.shape[1]}x{self.bgr.shape[0]}, raw pixels withheld)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a raw Frame must not be pickled: raw pixels never leave the process")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """One tracked head: what the code may be made of, and the region that must be hidden.

    Attributes:
        track_id: Number of the track, from 0, unique in one run.
        center_xy: Centre of the head model in frame pixels.
        size_px: Width of the generator's square patch in frame pixels.
        yaw_deg, pitch_deg, roll_deg: yaw > 0 nose to picture right, pitch > 0 looks up,
            roll > 0 clockwise in the picture.
        expression: Named scalars of `head_model.EXPRESSION_FIELDS`, in head_model units.
        hull_xy: Convex polygon in frame pixels that covers the whole head, hair included.
        is_predicted: True where the tracker carried the head through a missed detection.
        is_doubted: True where a second look never found a face (a print, a fist): it is hidden all
            the same, but no stand-in is painted.
    """

    track_id: int
    center_xy: tuple[float, float]
    size_px: float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    expression: dict[str, float]
    hull_xy: Float[np.ndarray, "n 2"]
    is_predicted: bool
    is_doubted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What analysis found in one frame.

    Attributes:
        size_hw: Height and width of the frame in pixels.
        heads: Every head that must be replaced, largest first.
        blank_reason: Not empty where analysis could not vouch for the frame: it must be blanked.
    """

    size_hw: tuple[int, int]
    heads: tuple[Head, ...]
    blank_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadCode:
    """All that the generator and compose may know of one head.

    Attributes:
        track_id: Track the code belongs to.
        levels: Quantized dynamic fields, one small integer each, in `code.HEAD_FIELDS` order.
        values: The levels in their own units, smoothed over time after quantization.
        latent: The track's secret noise, drawn once per track.
        center_xy, size_px, roll_deg: Placement, rounded to the code's steps, then smoothed.
        skin_bgr: Quantized colour that the stand-in's skin is matched to.
        hull_xy: Region to blank, dilated outward, frame pixels.
    """

    track_id: int
    levels: tuple[int, ...]
    values: Float32[np.ndarray, " f"]
    latent: Float32[np.ndarray, " z"]
    center_xy: tuple[float, float]
    size_px: float
    roll_deg: float
    skin_bgr: tuple[float, float, float]
    hull_xy: Float[np.ndarray, "n 2"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """The code of one frame: everything a person's pixels can influence passes through it."""

    size_hw: tuple[int, int]
    heads: tuple[HeadCode, ...]
    blank_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patches:
    """What the generator painted: one BGRA patch for each head of the code, in the same order."""

    bgra: tuple[UInt8[np.ndarray, "h w 4"], ...]


_MAKER = object()


@dataclass(frozen=True, slots=True, eq=False)
class SafeFrame:
    """One picture that may leave the process. Only `compose` (and `blank`) make one.

    Attributes:
        bgr: Safe pixels, uint8, blue-green-red.
        index, time_s: As in the frame it stands for.
        reason: Empty for a composed picture, else why the frame is blank.
    """

    bgr: UInt8[np.ndarray, "h w 3"]
    index: int
    time_s: float
    reason: str
    maker: object

    def __post_init__(self) -> None:
        if self.maker is not _MAKER:
            raise TypeError("only veilcam.camera.compose makes a SafeFrame")

    @classmethod
    def blank(
        cls, size_hw: tuple[int, int], *, index: int, time_s: float, reason: str
    ) -> "SafeFrame":
        """A flat dark picture that stands for a frame nobody can vouch for."""
        bgr = np.full((*size_hw, 3), 32, np.uint8)
        return cls(bgr, index, time_s, reason or "unknown", _MAKER)


Mask = Bool[np.ndarray, "h w"]
