"""`scene` mode under audit: one picture of a person through the product's own loop of that mode."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.actor_cast import load_cast
from veilcam.camera.actor_code import ActorEncoder
from veilcam.camera.audit_protect import Protected
from veilcam.camera.audit_protect import code_row as head_row
from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import Bundle
from veilcam.camera.people import PeopleAnalyser
from veilcam.camera.person_boxes import PersonBoxes
from veilcam.camera.plate import PlateLearner
from veilcam.camera.pose import PoseModel
from veilcam.camera.repaint import Repainter
from veilcam.camera.scene_heads import SceneHeads
from veilcam.camera.scene_loop import ActorPainter, SceneLoop
from veilcam.camera.scene_types import NO_HEADS, ActorCode, Box, Heads, People, Person, SceneCodes
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.types import Codes, Frame

_FACE_NUMBERS = 1 + len(HEAD_FIELDS) + 5  # whether there is one; fields; size, roll, skin


class SceneProtection:
    """A fresh track, fresh secret looks, and no background yet: what is shown is the actor alone.

    Args:
        bundle: Verified bundle of mode `scene`.
        generator: Its generator.
        faces: Verified bundle of mode `face`, for heads that are near.
        face_generator: Its generator.
    """

    def __init__(
        self, bundle: Bundle, generator: Generator, faces: Bundle, face_generator: Generator
    ) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self._cast, self._facing = load_cast(bundle)
        self._generator = generator
        self._faces, self._face_generator = faces, face_generator
        self._detect = PersonBoxes(assets / "yolox.onnx")
        self._pose = PoseModel(assets / "movenet.onnx")

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> Protected:
        """The picture as `scene` mode shows it; the code's row is None where nobody was found."""
        size_hw = (bgr.shape[0], bgr.shape[1])
        tap = _Tap(self._cast)
        heads = _HeadsTap(self._faces, Repainter(self._face_generator))
        sink = MemorySink()
        SceneLoop(
            ArraySource([bgr]), sink,
            analyse=PeopleAnalyser(
                self._facing, proof=None, detect=self._detect, pose=self._pose
            ),
            learner=PlateLearner(size_hw), encoder=tap, paint=ActorPainter(self._generator),
            heads=heads,
        ).run()  # fmt: skip
        hulls = tuple(_corners(person.box_xywh) for person in tap.people)
        return Protected(sink.frames[-1].bgr, code_row(tap.actors, heads.told, size_hw), hulls)


def code_row(
    actors: tuple[ActorCode, ...], heads: Heads, size_hw: tuple[int, int]
) -> Float32[np.ndarray, " c"] | None:
    """All that is sent of the largest actor: pose, facing, looks as told, place, its head."""
    if not actors:
        return None
    actor = max(actors, key=lambda a: a.height)
    place = [actor.left / size_hw[1], actor.top / size_hw[0], actor.height / size_hw[0]]
    own = tuple(head for head in heads.codes if head.track_id == actor.track_id)
    face = head_row(Codes(size_hw=size_hw, heads=own))
    told = [0.0] * _FACE_NUMBERS if face is None else [1.0, *face]
    return np.array([*actor.values, *place, *told], np.float32)


class _HeadsTap(SceneHeads):
    """Heads that show the audit what was made of them."""

    told: Heads = NO_HEADS

    def __call__(self, frame: Frame, people: People, skin_of: dict[int, int]) -> Heads:
        self.told = super().__call__(frame, people, skin_of)
        return self.told


class _Tap(ActorEncoder):
    """An encoder that shows the audit what it made."""

    people: tuple[Person, ...] = ()
    actors: tuple[ActorCode, ...] = ()

    def encode(self, people: People, light: tuple[int, int, int]) -> SceneCodes:
        codes = super().encode(people, light)
        self.people, self.actors = people.people, codes.actors
        return codes


def _corners(box_xywh: Box) -> Float[np.ndarray, "4 2"]:
    x, y, width, height = box_xywh
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], float)
