"""A frame between its reading and its writing."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from veilcam.camera.types import Frame, HeadCode, Scene


@dataclass(slots=True)
class Pending:
    """A frame on its way through the loop, with what is known of it so far.

    Attributes:
        codes, patches: Of the heads painted so far, by track id.
        reason: Not empty where a stage failed: nothing of the frame may be shown.
        spent_ms: Time spent on it, by stage.
    """

    frame: Frame
    scene: Scene
    skin: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    codes: dict[int, HeadCode] = field(default_factory=dict)
    patches: dict[int, UInt8[np.ndarray, "p p 4"]] = field(default_factory=dict)
    is_painted: bool = False
    reason: str = ""
    spent_ms: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to what was spent; a block that fails does not count."""
        start_ns = time.perf_counter_ns()
        yield
        self.spent_ms[stage] += (time.perf_counter_ns() - start_ns) / 1e6
