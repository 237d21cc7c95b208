"""Frame + Codes + Patches -> SafeFrame: the only place where a raw frame becomes a safe one.

The order is the safety argument: (1) all but the hulls is copied to an empty canvas, (2) fills are
made from that canvas, (3) fills and then stand-ins are laid over it. No later step reads the raw
frame, so no output pixel depends on a pixel inside a hull.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.face_mesh import similarity
from veilcam.camera.types import _MAKER, Codes, Frame, HeadCode, Mask, Patches, SafeFrame

_FILL_PX = 40  # longer side of the picture in which a hull is filled
_COARSEST_PX = 5  # longer side of the picture from which unknown parts are taken at last
_NO_BACKGROUND = 96.0  # fill level where hulls cover everything around
_EDGE_RAMP = 0.06  # of the patch side: alpha falls to 0 at the patch's border
_SHRUNK = 0.7  # of the patch side: heads smaller than that are first made smaller by area means
_GAIN_RANGE = (0.5, 2.0)
_LEVELS = np.arange(256)[:, None]
_ONES = np.ones(3, np.float32)
_CROSS_AND_CORNERS = np.ones((3, 3), np.uint8)


def compose(frame: Frame, codes: Codes, patches: Patches) -> SafeFrame:
    """The frame with every head of the code replaced, or a blank where the code says so.

    Args:
        frame: Raw frame.
        codes: Its code; hulls in frame pixels.
        patches: One BGRA patch (straight alpha) for each head of the code, in its order.

    Returns:
        A safe picture of the frame's size.

    Raises:
        ValueError: Sizes or numbers of code, patches and frame do not fit, or are not finite.

    Guarantees: the output is the same whatever the frame holds inside the hulls; every pixel that
    a hull touches counts as inside.
    """
    size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
    if codes.blank_reason:
        return SafeFrame.blank(
            size_hw, index=frame.index, time_s=frame.time_s, reason=codes.blank_reason
        )
    _check(size_hw, codes, patches)
    outside = _outside(size_hw, tuple(head.hull_xy for head in codes.heads))
    canvas = np.zeros_like(frame.bgr)
    cv2.copyTo(frame.bgr, outside, canvas)  # hidden pixels are never written to it
    pairs = sorted(zip(codes.heads, patches.bgra, strict=True), key=lambda p: p[0].size_px)
    fills = [_fill(canvas, outside, head) for head, _ in pairs]  # all before one is laid over
    for layer in fills:
        lay_over_into(canvas, layer)
    for head, bgra in pairs:
        lay_over_into(canvas, stand_in(canvas.shape[:2], head, bgra))
    return SafeFrame(canvas, frame.index, frame.time_s, "", _MAKER)


def hull_mask(size_hw: tuple[int, int], hulls: tuple[Float[np.ndarray, "_ 2"], ...]) -> Mask:
    """True where a pixel is touched by any hull, rounded outward by one pixel."""
    return np.asarray(_outside(size_hw, hulls) == 0)


def _outside(
    size_hw: tuple[int, int], hulls: tuple[Float[np.ndarray, "_ 2"], ...]
) -> UInt8[np.ndarray, "h w"]:
    """255 outside of all hulls, 0 where any touches the pixel or the one beside it."""
    outside = np.full(size_hw, 255, np.uint8)
    for hull in hulls:
        box = _clip(hull.min(0) - 3, hull.max(0) + 4, size_hw)
        if box is None:
            continue
        x1, y1, x2, y2 = box
        part = np.full((y2 - y1, x2 - x1), 255, np.uint8)
        corners = np.concatenate([np.floor(hull), np.ceil(hull)]) - (x1, y1)
        cv2.fillConvexPoly(part, cv2.convexHull(corners.astype(np.int32)), 0)
        region = outside[y1:y2, x1:x2]
        cv2.min(region, cv2.erode(part, _CROSS_AND_CORNERS), region)
    return outside


def _check(size_hw: tuple[int, int], codes: Codes, patches: Patches) -> None:
    if codes.size_hw != size_hw:
        raise ValueError(f"code is for a frame of {codes.size_hw}, got a frame of {size_hw}")
    check_heads(codes.heads, patches)


def check_heads(heads: tuple[HeadCode, ...], patches: Patches) -> None:
    """Raises ValueError where codes and patches do not fit or hold what is no number."""
    if len(patches.bgra) != len(heads):
        raise ValueError(f"got {len(patches.bgra)} patches for {len(heads)} heads")
    for head, bgra in zip(heads, patches.bgra, strict=True):
        if bgra.dtype != np.uint8 or bgra.ndim != 3 or bgra.shape[2] != 4:
            raise ValueError(f"patch must be uint8 (p, p, 4), got {bgra.dtype} {bgra.shape}")
        numbers = np.array([*head.center_xy, head.size_px, head.roll_deg, *head.skin_bgr])
        if not (np.isfinite(numbers).all() and np.isfinite(head.hull_xy).all()):
            raise ValueError("head code is not finite")
        if len(head.hull_xy) < 3 or head.size_px <= 0 or np.abs(head.hull_xy).max() > 1e6:
            raise ValueError("head code has no usable hull or size")


@dataclass(frozen=True, slots=True)
class Layer:
    """Something to lay over the canvas: its box x1, y1, x2, y2 and premultiplied BGRA pixels."""

    box: tuple[int, int, int, int]
    bgra: UInt8[np.ndarray, "h w 4"]


def lay_over_into(canvas: UInt8[np.ndarray, "h w 3"], layer: Layer | None) -> None:
    """A layer over the canvas; None lies outside of it."""
    if layer is None:
        return
    x1, y1, x2, y2 = layer.box
    region = canvas[y1:y2, x1:x2]
    alpha = cv2.extractChannel(layer.bgra, 3)
    rest = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGR)
    under = cv2.multiply(region, rest, scale=1 / 255)
    cv2.add(under, cv2.cvtColor(layer.bgra, cv2.COLOR_BGRA2BGR), region)


def _fill(
    canvas: UInt8[np.ndarray, "h w 3"], outside: UInt8[np.ndarray, "h w"], head: HeadCode
) -> Layer | None:
    """A smooth picture of what is around one hull, opaque in the hull and faded out around it.

    Args:
        canvas: Frame that is 0 in all hulls.
        outside: 255 outside of all hulls, else 0.
        head: The head to hide.
    """
    span = float(np.ptp(head.hull_xy, axis=0).max())
    margin = 0.2 * span + 4
    box = _clip(head.hull_xy.min(0) - margin, head.hull_xy.max(0) + margin, canvas.shape[:2])
    if box is None:
        return None
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    scale = min(1.0, _FILL_PX / max(height, width))
    small_wh = (max(round(width * scale), 1), max(round(height * scale), 1))
    known = cv2.resize(outside[y1:y2, x1:x2], small_wh, interpolation=cv2.INTER_AREA)
    # with 0 in the hull, the area mean is colour x share of known pixels
    colour = cv2.resize(canvas[y1:y2, x1:x2], small_wh, interpolation=cv2.INTER_AREA)
    # a cell of rounding and one of interpolation keep the hull itself opaque
    distance = cv2.distanceTransform(cv2.inRange(known, 255, 255), cv2.DIST_C, 3)
    ramp = max(0.05 * span * scale, 1.0)
    alpha = np.clip((2 + ramp - distance) / ramp, 0, 1)
    fill = np.empty((*known.shape, 4), np.float32)
    weighted = cv2.merge([colour, known]).astype(np.float32)
    cv2.multiply(_pull_push(weighted), cv2.merge([alpha] * 4), fill)
    fill[..., 3] = 255 * alpha
    bgra = cv2.resize(fill.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    return Layer(box, bgra)


def _pull_push(weighted: Float32[np.ndarray, "h w 4"]) -> Float32[np.ndarray, "h w 4"]:
    """Colours with the unknown part taken from ever coarser means.

    Args:
        weighted: Colour x share, and 255 x share, of the known pixels of each cell.

    Source: Gortler et al.: The Lumigraph, SIGGRAPH 1996, section 3.4.
    """
    height, width = weighted.shape[:2]
    if max(height, width) <= _COARSEST_PX:
        total = weighted.sum((0, 1))
        mean = 255 * total / total[3] if total[3] > 0.3 else np.full(4, _NO_BACKGROUND)
        below = np.broadcast_to(mean, weighted.shape)
    else:
        half_wh = ((width + 1) // 2, (height + 1) // 2)
        small = cv2.resize(weighted, half_wh, interpolation=cv2.INTER_AREA)
        share = np.maximum(small[..., 3:], 1e-4) / 255
        below = _pull_push(small / np.maximum(share**0.5, share))
        below = cv2.resize(below, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(weighted + (1 - weighted[..., 3:] / 255) * below, np.float32)


def stand_in(
    size_hw: tuple[int, int], head: HeadCode, bgra: UInt8[np.ndarray, "p p 4"]
) -> Layer | None:
    """One stand-in, turned, scaled and colour-matched."""
    side = bgra.shape[0]
    alpha = cv2.multiply(cv2.extractChannel(bgra, 3), _border_ramp(side), scale=1 / 255)
    left, top, width, height = cv2.boundingRect(alpha)
    if width == 0:
        return None
    to_patch = similarity(head.center_xy, head.size_px, head.roll_deg, side)
    back = np.asarray(cv2.invertAffineTransform(to_patch), float)
    ends_x, ends_y = (left - 1, left + width + 1), (top - 1, top + height + 1)
    corners = np.array([[x, y, 1] for x in ends_x for y in ends_y]) @ back.T
    box = _clip(corners.min(0) - 1, corners.max(0) + 2, size_hw)
    if box is None:
        return None
    x1, y1, x2, y2 = box
    colour = cv2.LUT(cv2.cvtColor(bgra, cv2.COLOR_BGRA2BGR), _gain_table(bgra, head.skin_bgr))
    colour = cv2.multiply(colour, cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    layer = cv2.merge([colour, alpha])
    small = max(round(head.size_px), 1)
    if small < _SHRUNK * side:  # a warp alone would skip pixels of it: eyes come and go
        layer = cv2.resize(layer, (small, small), interpolation=cv2.INTER_AREA)
        back[:, :2] *= side / small
    # pixel centres lie at whole numbers for warpAffine and at halves in our coordinates
    back[:, 2] += back[:, :2] @ (0.5, 0.5) - 0.5 - (x1, y1)
    return Layer(box, cv2.warpAffine(layer, back, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR))


@cache
def _border_ramp(side: int) -> UInt8[np.ndarray, "p p"]:
    """255 in the middle of a patch, falling to 0 at its border, so that no square edge shows.

    A rounded square: no head fills a patch's corners, and what is painted there are specks.
    """
    place = np.abs(np.arange(side) + 0.5 - side / 2) / (side / 2)
    radius = np.cbrt(place[:, None] ** 3 + place[None] ** 3)
    return np.asarray(255 * np.clip((1 - radius) / (2 * _EDGE_RAMP), 0, 1), np.uint8)


def _gain_table(
    bgra: UInt8[np.ndarray, "p p 4"], skin_bgr: tuple[float, float, float]
) -> UInt8[np.ndarray, "1 256 3"]:
    """Look-up table that brings the patch's skin to the wanted colour, channel by channel."""
    skin = patch_skin(bgra)
    gains = np.ones(3)
    if skin is not None:
        gains = np.clip(np.asarray(skin_bgr) / np.maximum(skin, 1), *_GAIN_RANGE)
    levels = _LEVELS * gains + 0.5
    return np.minimum(levels, 255).astype(np.uint8)[None]


def patch_skin(bgra: UInt8[np.ndarray, "p p 4"]) -> Float[np.ndarray, " 3"] | None:
    """Mean colour of a patch's skin: the opaque middle without its darkest and brightest parts.

    Every second row and column is enough for a mean.
    """
    side = bgra.shape[0]
    face = bgra[int(0.38 * side) : int(0.78 * side) : 2, int(0.32 * side) : int(0.68 * side) : 2]
    pixels = face.reshape(-1, 4).astype(np.float32)
    pixels = pixels[pixels[:, 3] > 200, :3]
    if len(pixels) < 8:
        return None
    order = np.argsort(pixels @ _ONES)
    low, high = int(0.35 * len(order)), int(np.ceil(0.9 * len(order)))
    return np.asarray(pixels[order[low:high]].mean(0), float)


def _clip(
    low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"], size_hw: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Box x1, y1, x2, y2 (half-open), rounded outward and clipped; None where nothing is left."""
    x1, y1 = np.maximum(np.floor(low), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(high), (size_hw[1], size_hw[0])).astype(int)
    return (int(x1), int(y1), int(x2), int(y2)) if x1 < x2 and y1 < y2 else None
