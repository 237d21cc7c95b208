"""Heads of `scene` mode: an actor that is near gets a head of the face bundle, with its own face.

The actor's generator paints whole bodies and no faces. Where a body's head is large enough to be
looked at, analysis of `face` mode measures it, and what it may tell passes through the head's code.
Nothing else does: composition gets code and patch, never a pixel.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from veilcam.camera.analysis import Analyser
from veilcam.camera.body_points import POINT
from veilcam.camera.code import Encoder, StandIn
from veilcam.camera.light import SKIN_CLASSES
from veilcam.camera.manifest import Bundle
from veilcam.camera.scene_types import NO_HEADS, Heads, People, Person
from veilcam.camera.types import Codes, Frame, Head, HeadCode, Patches, Scene

_NEAR_PX, _FAR_PX = 40.0, 32.0  # expected width of a head from which they are looked for; kept to
_HEIGHT = 0.11  # width of a head over a body's height
_PAIRS = (("shoulder", 0.45), ("ear", 1.1), ("eye", 2.6))  # and over these distances
_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_SEEN = 0.3
_MIN_PATCH_PX = 56.0  # side of the head's square patch: a smaller face is no face
_EVERY_S = 0.045  # between two looks: at 30 frames a second every other frame shows the last heads
_MAX_OFF = 0.6  # of the patch: farther from a body's own face it belongs to somebody else


@runtime_checkable
class FindHeads(Protocol):
    """Finds heads and tells their skin: `analysis.Analyser`."""

    frame_skin: dict[int, tuple[float, float, float]]

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Run all graphs once."""

    def __call__(self, frame: Frame) -> Scene:
        """Every head of the frame."""


class SceneHeads:
    """Finds, encodes and paints the heads of people who are near.

    The skin class of a head is the one that was sent of its actor, so a face costs no epsilon of
    its own; its dynamic fields cost the bits of a head's code.

    Args:
        bundle: Of mode `face`.
        paint: Paints one patch for each head of a code.
        analyser: Of heads; by default `face` mode's own.
    """

    def __init__(
        self, bundle: Bundle, paint: Callable[[Codes], Patches], analyser: FindHeads | None = None
    ) -> None:
        self._analyser: FindHeads = analyser or Analyser()
        self._encoder = Encoder(bundle.mean, bundle.chol, bundle.skin, casting=self._cast)
        self._paint = paint
        self._skins: deque[int] = deque()
        self._is_near = False
        self._looked_s = -1e9
        self._last = NO_HEADS

    def warm_up(self, size_hw: tuple[int, int]) -> None:
        """Run all graphs once, so that memory is there."""
        self._analyser.warm_up(size_hw)

    def __call__(self, frame: Frame, people: People, skin_of: dict[int, int]) -> Heads:
        """Heads of the frame's people, where they are near.

        Args:
            frame: Raw frame; nothing of it is kept.
            people: As found in it.
            skin_of: Track of an actor -> its class of `light.SKIN_CLASSES`, as sent.
        """
        limit = _FAR_PX if self._is_near else _NEAR_PX
        self._is_near = any(head_px(person) >= limit for person in people.people)
        if not self._is_near:
            self._last = NO_HEADS
            return NO_HEADS
        if 0 <= frame.time_s - self._looked_s < _EVERY_S and self._last.codes:
            return _kept(self._last, people)
        self._looked_s = frame.time_s
        scene = self._analyser(frame)
        owners = owners_of(scene.heads, people)
        heads = tuple(h for h in scene.heads if h.track_id in owners)
        new = [h.track_id for h in heads if h.track_id not in self._encoder.track_ids]
        self._skins = deque(skin_of.get(owners[i], 0) for i in new)
        codes = self._encoder.encode(replace(scene, heads=heads), self._analyser.frame_skin)
        patches = self._paint(Codes(size_hw=codes.size_hw, heads=codes.heads))
        told = tuple(_placed(head, owners[head.track_id]) for head in codes.heads)
        self._last = Heads(codes=told, patches=patches)
        return self._last

    def _cast(self, random: np.random.Generator) -> StandIn:
        """Who plays the next new head: anybody with the skin of its actor."""
        skin = self._skins.popleft()
        return StandIn(latent=self._encoder.draw_for(SKIN_CLASSES[skin], random), skin_class=skin)


def head_px(person: Person) -> float:
    """How wide a person's head is about, in pixels: the most that any pair of seen points says.

    A body that is cut at the neck has no shoulders, one that is turned away has no eyes.
    """
    found = [_HEIGHT * person.box_xywh[3]]
    for part, share in _PAIRS:
        left, right = (person.points[POINT[f"{side}_{part}"]] for side in ("left", "right"))
        if min(left[2], right[2]) >= _SEEN:
            found.append(share * float(np.hypot(*(left[:2] - right[:2]))))
    return float(max(found))


def owners_of(heads: tuple[Head, ...], people: People) -> dict[int, int]:
    """Track of a head -> track of the person whose face it is; each person has one at most."""
    pairs = []
    for head in heads:
        if head.is_doubted or head.size_px < _MIN_PATCH_PX:
            continue
        for person in people.people:
            off = float(np.hypot(*(_face_of(person) - head.center_xy))) / head.size_px
            if off <= _MAX_OFF:
                pairs.append((off, head.track_id, person.track_id))
    owners: dict[int, int] = {}
    for _, head_id, person_id in sorted(pairs):
        if head_id not in owners and person_id not in owners.values():
            owners[head_id] = person_id
    return owners


def _kept(heads: Heads, people: People) -> Heads:
    """Those whose actor is still there."""
    present = {person.track_id for person in people.people}
    pairs = [
        (code, bgra)
        for code, bgra in zip(heads.codes, heads.patches.bgra, strict=True)
        if code.track_id in present
    ]
    return Heads(
        codes=tuple(code for code, _ in pairs), patches=Patches(bgra=tuple(p for _, p in pairs))
    )


def _face_of(person: Person) -> Float[np.ndarray, " 2"]:
    """The middle of the points of a face, of those that were seen if any was."""
    points = person.points[[POINT[name] for name in _FACE]]
    seen = points[points[:, 2] >= _SEEN]
    return np.asarray((seen if len(seen) else points)[:, :2].mean(0), float)


def _placed(head: HeadCode, actor_id: int) -> HeadCode:
    """The code under its actor's track; its region is the patch's own square, nothing measured."""
    half = head.size_px / 2
    square = np.array([(-half, -half), (half, -half), (half, half), (-half, half)])
    return replace(head, track_id=actor_id, hull_xy=square + np.array(head.center_xy))
