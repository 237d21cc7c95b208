"""One picture in memory -> painted anew in `frame` mode: no pixel of it is in what comes out."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from veilcam.camera.frame_loop import FrameModels
from veilcam.camera.layout_code import LayoutEncoder
from veilcam.camera.people import PeopleAnalyser
from veilcam.camera.person_boxes import PersonBoxes
from veilcam.camera.pose import PoseModel
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.strength import DEFAULT, Strength
from veilcam.camera.types import SafeFrame


class FrameProtector:
    """`frame` mode on single pictures. One thread at a time.

    Each picture is a run of its own: new answers, new noise, new actors, nothing of the last one.

    Args:
        bundle: Folder of a bundle of that mode; by default the one in the package.
        strength: Which cells are sent.
        threads: Threads of painter and actors.

    Attributes:
        bundle: The painter's.
        heads_replaced: People of the last picture in whose place there is an actor.
    """

    def __init__(
        self, bundle: Path | None = None, *, strength: Strength = DEFAULT, threads: int = 1
    ) -> None:
        assets = Path(__file__).parent / "assets"
        self._models = FrameModels(bundle, {"threads": threads})
        self._detect = PersonBoxes(assets / "yolox.onnx")
        self._pose = PoseModel(assets / "movenet.onnx")
        self.bundle, self._strength = self._models.bundle, strength
        self.heads_replaced = 0

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> SafeFrame:
        """The picture painted anew, in its own size; blank where a part failed."""
        analyse = PeopleAnalyser(
            self._models.facing, proof=None, detect=self._detect, pose=self._pose
        )
        encoder, sink = LayoutEncoder(strength=self._strength), MemorySink()
        loop = self._models.loop(ArraySource([bgr]), sink, analyse=analyse, encoder=encoder)
        self.heads_replaced = loop.run().heads_replaced
        return sink.frames[-1]
