"""What a webcam is asked for, and what may be asked; standard library only."""

import re
from dataclasses import dataclass

SIZE = re.compile(r"(\d{2,4})x(\d{2,4})")  # as 1280x720
MAX_FPS = 240


@dataclass(frozen=True, slots=True)
class Asked:
    """A picture; the webcam gives what it has nearest to it.

    Attributes:
        width, height: Pixels.
        fps: Pictures a second.
    """

    width: int = 1280
    height: int = 720
    fps: int = 30


USUAL = Asked()
