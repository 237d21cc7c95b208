"""`scene` mode: a learned background with actors in the places and poses of people."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.actor_code import ActorEncoder, framing, neutral_values
from veilcam.camera.errors import ConfigError
from veilcam.camera.generator import Generator
from veilcam.camera.parts import SinkLike, SourceLike
from veilcam.camera.pending import Pending
from veilcam.camera.people import PeopleAnalyser, Proof
from veilcam.camera.plate import PlateLearner
from veilcam.camera.repaint import Repainter
from veilcam.camera.report import RunReport
from veilcam.camera.running import Running
from veilcam.camera.scene_compose import compose_scene
from veilcam.camera.scene_heads import SceneHeads
from veilcam.camera.scene_types import NO_HEADS, ActorCode, Heads, People, Plate, SceneCodes
from veilcam.camera.types import Frame, Patches, SafeFrame, Scene

Analyse = Callable[[Frame], People]
Paint = Callable[[SceneCodes], Patches]
FindFaces = Callable[[Frame, People, dict[int, int]], Heads]
STAGES = ("analyse", "learn", "encode", "generate", "heads", "compose", "total")
_PROOF_HW = (360, 640)
_SAME = 0.003  # of a patch's sides: less than half a pixel of it


class SceneLoop(Running):
    """Runs frames from a source to a sink; people are replaced, the rest is the plate.

    A fault anywhere gives a blank, and nothing is learned from that frame.

    Args:
        source, sink: Both ends; the caller closes them.
        analyse: Frame -> People.
        learner: Learns the plate.
        encoder: People -> code.
        paint: Code -> one patch for each actor.
        heads: Heads of those who are near; None paints bodies alone.
        bundle_sha256: Hash of the bundle, for the report.
    """

    def __init__(
        self,
        source: SourceLike,
        sink: SinkLike,
        *,
        analyse: Analyse,
        learner: PlateLearner,
        encoder: ActorEncoder,
        paint: Paint,
        heads: FindFaces | None = None,
        bundle_sha256: str = "",
    ) -> None:
        report = SceneReport(bundle_sha256=bundle_sha256, learner=learner)
        super().__init__(source, sink, stages=STAGES, report=report)
        self._analyse, self._learner = analyse, learner
        self._actor_encoder, self._paint_actors, self._heads = encoder, paint, heads

    def step(self) -> bool:
        """Take one frame in and hand one safe frame out; False once the source is empty."""
        frame = self._read()
        if frame is None:
            return False
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        spent = Pending(frame, Scene(size_hw=size_hw, heads=()))
        with spent.timed("total"):
            safe = self._make(frame, spent)
        for stage, spent_ms in spent.spent_ms.items():
            self._note(stage, spent_ms)
        self._write(safe)
        return True

    def _make(self, frame: Frame, spent: Pending) -> SafeFrame:
        stage = "analyse"
        try:
            with spent.timed(stage):
                people = self._analyse(frame)
            stage = "learn"
            with spent.timed(stage):
                if people.is_alive:
                    self._learner.add(frame.bgr, people.hidden, frame.time_s)
                else:
                    self._learner.forget_slot()
            stage = "encode"
            with spent.timed(stage):
                codes = self._actor_encoder.encode(people, self._learner.light)
            stage = "generate"
            with spent.timed(stage):
                patches = self._paint_actors(codes)
            heads = NO_HEADS
            if self._heads is not None:
                stage = "heads"
                with spent.timed(stage):
                    heads = self._heads(frame, people, self._actor_encoder.skin_classes)
            stage = "compose"
            with spent.timed(stage):
                safe = compose_scene(
                    self._learner.plate, codes, patches, index=frame.index, time_s=frame.time_s,
                    heads=heads,
                )  # fmt: skip
        except Exception as error:  # whatever happens, the sink gets a blank
            self._learner.forget_slot()
            reason = self._fault(stage, type(error).__name__)
            return SafeFrame.blank(
                (frame.bgr.shape[0], frame.bgr.shape[1]), index=frame.index, time_s=frame.time_s,
                reason=reason,
            )  # fmt: skip
        self.report.heads_replaced += len(codes.actors)
        self.report.people.update(actor.track_id for actor in codes.actors)
        return safe


class SceneReport(RunReport):
    """Counters of one run in `scene` mode, and what is known of the plate."""

    def __init__(self, *, bundle_sha256: str, learner: PlateLearner) -> None:
        super().__init__(bundle_sha256=bundle_sha256)
        self._learner = learner

    def to_json(self) -> dict[str, Any]:
        """As `RunReport.to_json`, with `plate`."""
        return super().to_json() | {"mode": "scene", "plate": self._learner.describe()}


class ActorPainter:
    """Paints actors; one whose code stays as it is keeps its patch.

    Args:
        generator: Paints one patch of values and latent.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._kept: dict[int, tuple[Float32[np.ndarray, " f"], UInt8[np.ndarray, "h w 4"]]] = {}

    def __call__(self, codes: SceneCodes) -> Patches:
        """One patch for each actor, in the code's order."""
        kept = {}
        for actor in codes.actors:
            values, patch = self._kept.get(actor.track_id, (None, None))
            if values is None or patch is None or np.abs(actor.values - values).max() > _SAME:
                values, patch = actor.values, self._generator.paint(actor.values, actor.latent)
            kept[actor.track_id] = values, patch
        self._kept = kept
        return Patches(bgra=tuple(kept[actor.track_id][1] for actor in codes.actors))


def build_loop(
    source: SourceLike,
    sink: SinkLike,
    *,
    bundle: Path | None = None,
    delay_frames: int = 0,
    profile: Mapping[str, Any] | None = None,
) -> SceneLoop:
    """The product's loop of `scene` mode; arguments as of `loop.build_loop`.

    Raises:
        ConfigError: A delay is asked for: here nothing has to be hidden in earlier frames.
    """
    from veilcam.camera.actor_cast import load_cast
    from veilcam.camera.manifest import load_bundle

    if delay_frames:
        raise ConfigError(
            f"delay_frames={delay_frames}: scene mode needs none, for it shows no live pixel; "
            "leave --delay out"
        )
    loaded = load_bundle(bundle, mode="scene")
    settings = ("precision", "threads", "execution_provider")
    generator = Generator(loaded, **{k: v for k, v in (profile or {}).items() if k in settings})
    cast, facing = load_cast(loaded)
    proof = make_proof(generator, cast.latents[0])
    analyser = PeopleAnalyser(facing, proof=proof)
    analyser.warm_up(source.size_hw)
    faces = load_bundle(None)
    heads = SceneHeads(faces, Repainter(Generator(faces)))
    heads.warm_up(source.size_hw)
    return SceneLoop(
        source, sink, analyse=analyser, learner=PlateLearner(source.size_hw),
        encoder=ActorEncoder(cast), paint=ActorPainter(generator), heads=heads,
        bundle_sha256=loaded.sha256,
    )  # fmt: skip


def make_proof(generator: Any, latent: np.ndarray) -> Proof:
    """A picture of somebody who does not exist, which the detector must find."""
    height, width = _PROOF_HW
    box = (0.42 * width, 0.1 * height, 0.16 * width, 0.8 * height)
    left, top, size = framing(box)
    values = neutral_values()
    actor = ActorCode(
        track_id=0, levels=(), values=values, latent=latent, left=left, top=top, height=size,
        ground_y=top + size,
    )  # fmt: skip
    floor = np.full((height, width, 3), 150, np.uint8)
    floor[int(0.7 * height) :] = 110
    plate = Plate(bgr=floor, known=1.0, version=1)
    codes = SceneCodes(size_hw=_PROOF_HW, actors=(actor,), light=(0, 0, 0))
    patch = generator.paint(values, latent)
    safe = compose_scene(plate, codes, Patches(bgra=(patch,)), index=0, time_s=0.0)
    rows, columns = np.nonzero(patch[..., 3] > 127)
    unit = size / patch.shape[0]
    x, y = left + columns.min() * unit, top + rows.min() * unit
    wide, high = np.ptp(columns) * unit, np.ptp(rows) * unit
    return Proof(safe.bgr, (float(x), float(y), float(wide), float(high)))
