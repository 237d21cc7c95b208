"""Frame + Codes + Patches -> SafeFrame: the only place where a raw frame becomes a safe one.

The order is the safety argument: (1) every hull is blanked in a copy of the frame, (2) the blank is
filled from pixels outside all hulls, (3) stand-ins are painted on top. No later step reads the raw
frame, so no output pixel depends on a pixel inside a hull.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.face_mesh import similarity
from veilcam.camera.types import _MAKER, Codes, Frame, HeadCode, Mask, Patches, SafeFrame

_FILL_PX = 48  # longer side of the picture in which a hull is filled
_NO_BACKGROUND = 96.0  # fill level where hulls cover everything around
_EDGE_RAMP = 0.06  # of the patch side: alpha falls to 0 at the patch's border
_GAIN_RANGE = (0.5, 2.0)


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
    hidden = hull_mask(size_hw, tuple(head.hull_xy for head in codes.heads))
    canvas = _blanked(frame.bgr, hidden)
    pairs = sorted(zip(codes.heads, patches.bgra, strict=True), key=lambda p: p[0].size_px)
    for head, _ in pairs:
        _fill_into(canvas, hidden, head)
    for head, bgra in pairs:
        _paint_into(canvas, head, bgra)
    return SafeFrame(canvas, frame.index, frame.time_s, "", _MAKER)


def hull_mask(size_hw: tuple[int, int], hulls: tuple[Float[np.ndarray, "_ 2"], ...]) -> Mask:
    """True where a pixel is touched by any hull, rounded outward by one pixel."""
    mask = np.zeros(size_hw, np.uint8)
    for hull in hulls:
        box = _clip(hull.min(0) - 3, hull.max(0) + 4, size_hw)
        if box is None:
            continue
        x1, y1, x2, y2 = box
        part = np.zeros((y2 - y1, x2 - x1), np.uint8)
        corners = np.concatenate([np.floor(hull), np.ceil(hull)]) - (x1, y1)
        outline = cv2.convexHull(corners.astype(np.int32))
        cv2.fillConvexPoly(part, outline, 255)
        part = cv2.dilate(part, np.ones((3, 3), np.uint8))
        mask[y1:y2, x1:x2] |= part
    return mask > 0


def _outside(hidden: Mask) -> UInt8[np.ndarray, "h w"]:
    """255 outside the hidden part, 0 inside."""
    return np.asarray(cv2.bitwise_not(hidden.view(np.uint8) * np.uint8(255)))


def _blanked(bgr: UInt8[np.ndarray, "h w 3"], hidden: Mask) -> UInt8[np.ndarray, "h w 3"]:
    """A copy that is 0 in the hidden part; hidden pixels are never written to it."""
    copy = np.zeros_like(bgr)
    cv2.copyTo(bgr, _outside(hidden), copy)
    return copy


def _check(size_hw: tuple[int, int], codes: Codes, patches: Patches) -> None:
    if codes.size_hw != size_hw:
        raise ValueError(f"code is for a frame of {codes.size_hw}, got a frame of {size_hw}")
    if len(patches.bgra) != len(codes.heads):
        raise ValueError(f"got {len(patches.bgra)} patches for {len(codes.heads)} heads")
    for head, bgra in zip(codes.heads, patches.bgra, strict=True):
        if bgra.dtype != np.uint8 or bgra.ndim != 3 or bgra.shape[2] != 4:
            raise ValueError(f"patch must be uint8 (p, p, 4), got {bgra.dtype} {bgra.shape}")
        numbers = np.array([*head.center_xy, head.size_px, head.roll_deg, *head.skin_bgr])
        if not (np.isfinite(numbers).all() and np.isfinite(head.hull_xy).all()):
            raise ValueError("head code is not finite")
        if len(head.hull_xy) < 3 or head.size_px <= 0 or np.abs(head.hull_xy).max() > 1e6:
            raise ValueError("head code has no usable hull or size")


def _fill_into(canvas: UInt8[np.ndarray, "h w 3"], hidden: Mask, head: HeadCode) -> None:
    """Fill the hidden pixels around one head smoothly from its surroundings, feathered outward."""
    span = float(np.ptp(head.hull_xy, axis=0).max())
    margin = 0.2 * span + 4
    box = _clip(head.hull_xy.min(0) - margin, head.hull_xy.max(0) + margin, canvas.shape[:2])
    if box is None:
        return
    x1, y1, x2, y2 = box
    region, hole = canvas[y1:y2, x1:x2], hidden[y1:y2, x1:x2]
    fill = _background(region, hole)
    # distance 0 inside the hull: the fill covers it whole, and fades over raw pixels outside
    distance = cv2.distanceTransform(_outside(hole), cv2.DIST_L2, 3)
    weight = np.clip(1 - distance / (0.05 * span + 1), 0, 1)
    region[:] = cv2.blendLinear(fill, region, weight, 1 - weight)


def _background(region: UInt8[np.ndarray, "h w 3"], hole: Mask) -> UInt8[np.ndarray, "h w 3"]:
    """A smooth picture of the region made only from pixels outside the hole (pull-push)."""
    height, width = hole.shape
    scale = min(1.0, _FILL_PX / max(height, width))
    small_wh = (max(round(width * scale), 1), max(round(height * scale), 1))
    outside = _outside(hole)
    known = cv2.resize(outside, small_wh, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    # with 0 in the hole, the area mean is colour x share of known pixels
    colour = cv2.resize(_blanked(region, hole), small_wh, interpolation=cv2.INTER_AREA)
    fill = np.clip(_pull_push(colour.astype(np.float32), known), 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(fill, (width, height), interpolation=cv2.INTER_LINEAR))


def _pull_push(
    weighted: Float32[np.ndarray, "h w 3"], weight: Float32[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w 3"]:
    """Colours with the unknown part taken from ever coarser means.

    Source: Gortler et al.: The Lumigraph, SIGGRAPH 1996, section 3.4.
    """
    height, width = weight.shape
    if max(height, width) <= 2:
        total = float(weight.sum())
        mean = weighted.sum((0, 1)) / total if total > 1e-3 else np.full(3, _NO_BACKGROUND)
        below = np.broadcast_to(mean, weighted.shape).astype(np.float32)
    else:
        half_wh = ((width + 1) // 2, (height + 1) // 2)
        small = cv2.resize(weighted, half_wh, interpolation=cv2.INTER_AREA)
        small_weight = cv2.resize(weight, half_wh, interpolation=cv2.INTER_AREA)
        gain = 1 / np.maximum(np.maximum(small_weight, 1e-6) ** 0.5, small_weight)
        small, small_weight = small * gain[..., None], small_weight * gain
        below = _pull_push(small.astype(np.float32), small_weight.astype(np.float32))
        below = cv2.resize(below, (width, height), interpolation=cv2.INTER_LINEAR)
    own = np.clip(weight, 0, 1)[..., None]
    return np.asarray(np.clip(weighted, 0, 255 * own) + (1 - own) * below, np.float32)


def _paint_into(
    canvas: UInt8[np.ndarray, "h w 3"], head: HeadCode, bgra: UInt8[np.ndarray, "p p 4"]
) -> None:
    """Draw one stand-in, turned, scaled and colour-matched, over the canvas."""
    side = bgra.shape[0]
    to_patch = similarity(head.center_xy, head.size_px, head.roll_deg, side)
    back = cv2.invertAffineTransform(to_patch)
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ back.T
    box = _clip(corners.min(0) - 1, corners.max(0) + 2, canvas.shape[:2])
    if box is None:
        return
    x1, y1, x2, y2 = box
    alpha = cv2.multiply(bgra[..., 3], _border_ramp(side), scale=1 / 255)
    colour = cv2.LUT(np.ascontiguousarray(bgra[..., :3]), _gain_table(bgra, head.skin_bgr))
    layers = cv2.multiply(colour, cv2.merge([alpha] * 3), scale=1 / 255)
    # pixel centres lie at whole numbers for warpAffine and at halves in our coordinates
    back[:, 2] += back[:, :2] @ (0.5, 0.5) - 0.5 - (x1, y1)
    warped = cv2.warpAffine(
        cv2.merge([*cv2.split(layers), alpha]), back, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR
    )
    rest = cv2.merge([cv2.bitwise_not(warped[..., 3])] * 3)
    region = canvas[y1:y2, x1:x2]
    under = cv2.multiply(region, rest, scale=1 / 255)
    region[:] = cv2.add(under, np.ascontiguousarray(warped[..., :3]))


def _border_ramp(side: int) -> UInt8[np.ndarray, "p p"]:
    """255 in the middle of a patch, falling to 0 at its border, so that no square edge shows."""
    place = (np.arange(side) + 0.5) / side
    ramp = np.clip(np.minimum(place, 1 - place) / _EDGE_RAMP, 0, 1)
    return np.asarray(255 * np.minimum(ramp[:, None], ramp[None]), np.uint8)


def _gain_table(
    bgra: UInt8[np.ndarray, "p p 4"], skin_bgr: tuple[float, float, float]
) -> UInt8[np.ndarray, "1 256 3"]:
    """Look-up table that brings the patch's skin to the wanted colour, channel by channel."""
    skin = patch_skin(bgra)
    gains = np.ones(3)
    if skin is not None:
        gains = np.clip(np.asarray(skin_bgr) / np.maximum(skin, 1), *_GAIN_RANGE)
    levels = np.arange(256)[:, None] * gains
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)[None]


def patch_skin(bgra: UInt8[np.ndarray, "p p 4"]) -> Float[np.ndarray, " 3"] | None:
    """Mean colour of a patch's skin: the opaque middle without its darkest and brightest parts."""
    side = bgra.shape[0]
    face = bgra[int(0.38 * side) : int(0.78 * side), int(0.32 * side) : int(0.68 * side)]
    pixels = face[face[..., 3] > 200][:, :3].astype(np.float32)
    if len(pixels) < 16:
        return None
    light = pixels.sum(1)
    low, high = np.percentile(light, [35, 90])
    return np.asarray(pixels[(light >= low) & (light <= high)].mean(0), float)


def _clip(
    low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"], size_hw: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Box x1, y1, x2, y2 (half-open), rounded outward and clipped; None where nothing is left."""
    x1, y1 = np.maximum(np.floor(low), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(high), (size_hw[1], size_hw[0])).astype(int)
    return (int(x1), int(y1), int(x2), int(y2)) if x1 < x2 and y1 < y2 else None
