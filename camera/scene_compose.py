"""Plate + codes + patches -> SafeFrame. It is never given a frame: nothing live can reach it."""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.compose import check_heads, lay_over_into, stand_in
from veilcam.camera.scene_light import gain_table
from veilcam.camera.scene_types import NO_HEADS, ActorCode, Heads, Plate, SceneCodes
from veilcam.camera.types import _MAKER, HeadCode, Patches, SafeFrame

_STAGE_BGR = (86, 80, 76)  # shown until the plate is there
_TEXT_BGR = (150, 146, 142)
_SHADOW = 0.45  # darkest part of a shadow
_RIM = 0.04  # of a patch's sides: alpha falls to 0 there
# outlines come out soft; below a sixth of full cover nothing is left of them
_CRISP = np.clip((np.arange(256) - 42) * 1.5, 0, 255).astype(np.uint8)
# The body's own head, which the face's picture may not cover: an ellipse in that picture's sides.
_OWN_HEAD, _OWN_HEAD_UP = (0.40, 0.44), 0.10
_LARGE, _SOFT_PX = 1.5, 1.0  # of a patch's height; of its pixels
_MAX_HEIGHTS = 4.0  # of the frame: a larger patch is no person


def compose_scene(
    plate: Plate,
    codes: SceneCodes,
    patches: Patches,
    *,
    index: int,
    time_s: float,
    heads: Heads = NO_HEADS,
) -> SafeFrame:
    """The plate in the light of now with its actors, those behind first.

    Args:
        plate: As released; where there is none, an empty stage that says so.
        codes: Of the frame.
        patches: One BGRA patch (straight alpha) for each actor, in the code's order.
        index: Of the frame it stands for.
        time_s: Of the frame it stands for.
        heads: Laid over the actors they belong to.

    Raises:
        ValueError: Sizes or numbers of plate, codes and patches do not fit, or are not finite.
    """
    _check(plate, codes, patches)
    check_heads(heads.codes, heads.patches)
    if plate.bgr is None:
        canvas = _stage(codes.size_hw, round(10 * plate.known)).copy()
    else:
        canvas = _lit(plate, codes.light).copy()
    pairs = sorted(zip(codes.actors, patches.bgra, strict=True), key=lambda pair: pair[0].ground_y)
    for actor, _ in pairs:
        _shade_into(canvas, actor)
    table = gain_table(codes.light)
    faces = {
        head.track_id: (head, bgra)
        for head, bgra in zip(heads.codes, heads.patches.bgra, strict=True)
    }
    for actor, bgra in pairs:
        face = faces.get(actor.track_id)
        _lay_over_into(canvas, actor, bgra, table, face[0] if face else None)
        if face:
            lay_over_into(canvas, stand_in(codes.size_hw, *face))
    return SafeFrame(canvas, index, time_s, "", _MAKER)


def _check(plate: Plate, codes: SceneCodes, patches: Patches) -> None:
    if plate.bgr is not None and (
        plate.bgr.shape != (*codes.size_hw, 3) or plate.bgr.dtype != np.uint8
    ):
        raise ValueError(f"code is for a frame of {codes.size_hw}, got another plate")
    if len(patches.bgra) != len(codes.actors):
        raise ValueError(f"got {len(patches.bgra)} patches for {len(codes.actors)} actors")
    if not np.isfinite(codes.light).all():
        raise ValueError("light is not finite")
    for actor, bgra in zip(codes.actors, patches.bgra, strict=True):
        if bgra.dtype != np.uint8 or bgra.ndim != 3 or bgra.shape[2] != 4:
            raise ValueError(f"patch must be uint8 (h, w, 4), got {bgra.dtype} {bgra.shape}")
        numbers = np.array([actor.left, actor.top, actor.height, actor.ground_y])
        if not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e5:
            raise ValueError("place of an actor is not finite")
        if not 1 <= actor.height <= _MAX_HEIGHTS * max(codes.size_hw):
            raise ValueError("an actor has no usable height")


@lru_cache(maxsize=2)
def _lit(plate: Plate, light: tuple[int, int, int]) -> UInt8[np.ndarray, "h w 3"]:
    assert plate.bgr is not None
    return plate.bgr if light == (0, 0, 0) else np.asarray(cv2.LUT(plate.bgr, gain_table(light)))


@lru_cache(maxsize=12)
def _stage(size_hw: tuple[int, int], tenths: int) -> UInt8[np.ndarray, "h w 3"]:
    """A flat picture that says that the background is still being learned."""
    canvas = np.full((*size_hw, 3), _STAGE_BGR, np.uint8)
    scale = size_hw[0] / 720
    text = f"learning the background  {10 * tenths} %"
    at = (round(24 * scale), round(48 * scale))
    size = max(0.9 * scale, 0.35)
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, _TEXT_BGR, 1, cv2.LINE_AA)
    return canvas


def _shade_into(canvas: UInt8[np.ndarray, "h w 3"], actor: ActorCode) -> None:
    """A soft ellipse under the feet, laid over the canvas."""
    width = 0.36 * actor.height
    height = 0.09 * actor.height
    middle = actor.left + actor.height / 4, actor.ground_y - 0.015 * actor.height
    x1, y1 = round(middle[0] - width / 2), round(middle[1] - height / 2)
    x2, y2 = x1 + max(round(width), 1), y1 + max(round(height), 1)
    left, top = max(x1, 0), max(y1, 0)
    right, bottom = min(x2, canvas.shape[1]), min(y2, canvas.shape[0])
    if left >= right or top >= bottom:
        return
    across = ((np.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1).astype(np.float32)
    down = ((np.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1).astype(np.float32)
    inside = np.maximum(1 - across[None] ** 2 - down[:, None] ** 2, 0)
    keep = np.round(255 * (1 - _SHADOW * inside)).astype(np.uint8)
    region = canvas[top:bottom, left:right]
    cv2.multiply(region, cv2.merge([keep] * 3), region, scale=1 / 255)


def _lay_over_into(
    canvas: UInt8[np.ndarray, "h w 3"],
    actor: ActorCode,
    bgra: UInt8[np.ndarray, "p q 4"],
    table: UInt8[np.ndarray, "1 256 3"],
    face: HeadCode | None,
) -> None:
    """The patch, scaled to the actor's rectangle, over the canvas, without the head it gets."""
    rows, columns = bgra.shape[:2]
    height = max(round(actor.height), 2)
    width = max(round(actor.height * columns / rows), 1)
    left, top = round(actor.left), round(actor.top)
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    alpha = cv2.LUT(cv2.extractChannel(bgra, 3), _CRISP)
    alpha = cv2.multiply(alpha, _rim(rows, columns), scale=1 / 255)
    colour = cv2.LUT(cv2.cvtColor(bgra, cv2.COLOR_BGRA2BGR), table)
    colour = cv2.multiply(colour, cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    # a warp by parts of a pixel took ten times as long and looked the same
    how = cv2.INTER_CUBIC if height > rows else cv2.INTER_AREA
    layer = cv2.merge([colour, alpha])
    if height > _LARGE * rows:  # the cells that a patch is made of would be seen as squares
        layer = cv2.GaussianBlur(layer, (0, 0), _SOFT_PX)
    whole = cv2.resize(layer, (width, height), interpolation=how)
    if face is not None:
        middle = face.center_xy[0] - left, face.center_xy[1] - _OWN_HEAD_UP * face.size_px - top
        axes = tuple(max(round(share * face.size_px), 1) for share in _OWN_HEAD)
        at = round(middle[0]), round(middle[1])
        cv2.ellipse(whole, at, axes, face.roll_deg, 0, 360, (0, 0, 0, 0), cv2.FILLED)
    placed = whole[y1 - top : y2 - top, x1 - left : x2 - left]
    region = canvas[y1:y2, x1:x2]
    alpha = cv2.extractChannel(placed, 3)
    rest = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGR)
    under = cv2.multiply(region, rest, scale=1 / 255)
    cv2.add(under, cv2.cvtColor(placed, cv2.COLOR_BGRA2BGR), region)


@lru_cache(maxsize=4)
def _rim(rows: int, columns: int) -> UInt8[np.ndarray, "h w"]:
    """255 in the middle of a patch, falling to 0 at its border."""
    sides = []
    for length in (rows, columns):
        place = (np.arange(length) + 0.5) / length
        sides.append(np.clip(np.minimum(place, 1 - place) / _RIM, 0, 1))
    return np.asarray(255 * np.minimum(sides[0][:, None], sides[1][None]), np.uint8)
