"""What the loop asks of the parts it joins."""

from typing import Protocol, runtime_checkable

from veilcam.camera.types import Codes, Frame, SafeFrame, Scene


@runtime_checkable
class SourceLike(Protocol):
    """What the loop needs of a source: frames one by one, None at the end."""

    size_hw: tuple[int, int]
    is_live: bool

    def read(self) -> Frame | None:
        """Next frame; raises SourceError where there is none to be had."""


@runtime_checkable
class SinkLike(Protocol):
    """What the loop needs of a sink. It gets safe frames only."""

    def write(self, frame: SafeFrame) -> None:
        """Take one picture; raises SinkError where it cannot."""


@runtime_checkable
class AnalyserLike(Protocol):
    """Frame -> Scene in two steps, so that known heads are painted while new ones are searched.

    Attributes:
        frame_skin: Skin colour of the last scene's heads.
        late: Tracks of the last scene that `begin` did not know, or had at another place.
    """

    frame_skin: dict[int, tuple[float, float, float]]
    late: frozenset[int]

    def begin(self, frame: Frame) -> Scene:
        """Heads known before, where they are expected; their hulls do not count yet."""

    def finish(self) -> Scene:
        """Every head in the frame given to `begin`."""


@runtime_checkable
class EncoderLike(Protocol):
    """Scene -> Codes."""

    def encode(self, scene: Scene, skin_bgr: dict[int, tuple[float, float, float]]) -> Codes:
        """The code of one scene."""
