"""Paints a head again only when its code has changed enough to be seen."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.types import Codes, HeadCode, Patches

SAME_STEPS = 0.1  # a field may move by this share of one of its levels; yaw: 0.4 degrees
_MAX_PATCHES = 16
_TOLERANCE = np.array([SAME_STEPS * field.step for field in HEAD_FIELDS], np.float32)


@dataclass(frozen=True, slots=True)
class _Painted:
    code: HeadCode
    bgra: UInt8[np.ndarray, "p p 4"]


class Repainter:
    """A generator that hands out a track's last patch while its code stays as it was.

    Values are compared with those that were painted, not with the last frame's, so slow changes
    add up to a new patch. Place, size and roll do not matter: compose applies them.

    Args:
        generator: Paints one patch for each head of a code.

    Attributes:
        num_painted, num_kept: Heads that were painted, and heads whose patch was used again.
    """

    def __init__(self, generator: Callable[[Codes], Patches]) -> None:
        self._generator = generator
        self._painted: OrderedDict[int, _Painted] = OrderedDict()
        self.num_painted = self.num_kept = 0

    def __call__(self, codes: Codes) -> Patches:
        """One patch for each head, in the code's order; what the generator raises passes."""
        todo = tuple(head for head in codes.heads if not self._is_same(head))
        if todo:
            fresh = self._generator(replace(codes, heads=todo))
            for head, bgra in zip(todo, fresh.bgra, strict=True):
                self._painted[head.track_id] = _Painted(head, bgra)
        self.num_painted += len(todo)
        self.num_kept += len(codes.heads) - len(todo)
        for head in codes.heads:
            self._painted.move_to_end(head.track_id)
        patches = Patches(bgra=tuple(self._painted[head.track_id].bgra for head in codes.heads))
        while len(self._painted) > _MAX_PATCHES:
            self._painted.popitem(last=False)
        return patches

    def _is_same(self, head: HeadCode) -> bool:
        painted = self._painted.get(head.track_id)
        if painted is None or not np.array_equal(painted.code.latent, head.latent):
            return False
        change = np.abs(head.values - painted.code.values)
        return bool((change <= _TOLERANCE).all())  # NaN is no sameness
