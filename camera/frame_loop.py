"""`frame` mode: the whole picture is painted anew from a coarse, noised code."""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.errors import ConfigError
from veilcam.camera.layout_code import LayoutEncoder
from veilcam.camera.layout_plan import describe
from veilcam.camera.layout_tokens import Casting
from veilcam.camera.painting import NOISE_SIZE, PATCH_HW, Decoder
from veilcam.camera.parts import SinkLike, SourceLike
from veilcam.camera.pending import Pending
from veilcam.camera.people import PeopleAnalyser
from veilcam.camera.report import RunReport
from veilcam.camera.run_noise import run_noise
from veilcam.camera.running import Running
from veilcam.camera.scene_compose import compose_scene
from veilcam.camera.scene_types import ActorCode, People, Plate, SceneCodes
from veilcam.camera.strength import Strength, chosen
from veilcam.camera.types import Frame, Patches, SafeFrame, Scene

_EDGE = 4  # pixels along the border: convolutions see zeros beyond it, and colour it by that
Analyse = Callable[[Frame], People]
PaintScene = Callable[[Float32[np.ndarray, " v"]], UInt8[np.ndarray, "h w 3"]]
PaintActors = Callable[[tuple[ActorCode, ...]], Patches]
STAGES = ("analyse", "encode", "generate", "compose", "total")
_NO_LIGHT = (0, 0, 0)


class FrameLoop(Running):
    """Runs frames from a source to a sink; nothing but the layout code gets through.

    A fault anywhere gives a blank.

    Args:
        source, sink: Both ends; the caller closes them.
        analyse: Frame -> People.
        encoder: Frame and People -> layout code.
        paint_scene: The painter's vector -> its picture, BGR.
        casting: Tokens -> actors.
        paint_actors: Actors -> one patch for each.
        bundle_sha256: Hash of the painter's bundle, for the report.
    """

    def __init__(
        self,
        source: SourceLike,
        sink: SinkLike,
        *,
        analyse: Analyse,
        encoder: LayoutEncoder,
        paint_scene: PaintScene,
        casting: Casting,
        paint_actors: PaintActors,
        bundle_sha256: str = "",
    ) -> None:
        report = FrameReport(bundle_sha256=bundle_sha256, strength=encoder.strength)
        super().__init__(source, sink, stages=STAGES, report=report)
        self._analyse, self._layout_encoder = analyse, encoder
        self._decode = Decoder(encoder.strength)
        self._paint_scene, self._casting, self._paint_actors = paint_scene, casting, paint_actors

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
            stage = "encode"
            with spent.timed(stage):
                code = self._layout_encoder.encode(frame, people)
            stage = "generate"  # from here on there is only the code
            with spent.timed(stage):
                painted = self._paint_scene(self._decode(code))
                actors = self._casting(code.tokens, code.size_hw)
                patches = self._paint_actors(actors)
            stage = "compose"
            with spent.timed(stage):
                codes = SceneCodes(size_hw=code.size_hw, actors=actors, light=_NO_LIGHT)
                plate = Plate(bgr=enlarged(painted, code.size_hw), known=1.0, version=1)
                safe = compose_scene(plate, codes, patches, index=frame.index, time_s=frame.time_s)
        except Exception as error:  # whatever happens, the sink gets a blank
            reason = self._fault(stage, type(error).__name__)
            return SafeFrame.blank(
                (frame.bgr.shape[0], frame.bgr.shape[1]), index=frame.index, time_s=frame.time_s,
                reason=reason,
            )  # fmt: skip
        self.report.heads_replaced += len(actors)
        self.report.people.update(actor.track_id for actor in actors)
        return safe


class FrameReport(RunReport):
    """Counters of one run in `frame` mode, and what its code carries."""

    def __init__(self, *, bundle_sha256: str, strength: Strength) -> None:
        super().__init__(bundle_sha256=bundle_sha256)
        self._strength = strength

    def to_json(self) -> dict[str, Any]:
        """As `RunReport.to_json`, with `layout`."""
        layout = describe(self._strength)
        layout["cells"] = "x".join(str(n) for n in layout["cells"][::-1])  # scalars only cross over
        return super().to_json() | {
            "mode": "frame", "strength": self._strength.value, "layout": layout,
        }  # fmt: skip


def enlarged(
    painted: UInt8[np.ndarray, "h w 3"], size_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The painted picture in the frame's size; its outermost pixels mirror those inside them.

    Raises:
        ValueError: It is not what a painter paints.
    """
    if painted.shape != (*PATCH_HW, 3) or painted.dtype != np.uint8:
        raise ValueError(f"painted {painted.dtype} {painted.shape}, wanted uint8 {PATCH_HW}")
    inner = painted[_EDGE:-_EDGE, _EDGE:-_EDGE]
    border = (_EDGE, _EDGE, _EDGE, _EDGE, cv2.BORDER_REFLECT_101)
    painted = np.asarray(cv2.copyMakeBorder(inner, *border), np.uint8)
    is_larger = size_hw[0] * size_hw[1] >= PATCH_HW[0] * PATCH_HW[1]
    how = cv2.INTER_CUBIC if is_larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(painted, size_hw[::-1], interpolation=how), np.uint8)


class FrameModels:
    """Painter and actors of the bundles, shared by the loops of one process.

    Args:
        bundle: Folder of a bundle of `frame` mode; by default the one in the package. Actors are
            those of the package's `scene` bundle.
        profile: Device profile: precision, threads, execution_provider.
    """

    def __init__(self, bundle: Path | None, profile: Mapping[str, Any] | None = None) -> None:
        from veilcam.camera.actor_cast import load_cast
        from veilcam.camera.generator import Generator
        from veilcam.camera.manifest import load_bundle

        names = ("precision", "threads", "execution_provider")
        settings = {k: v for k, v in (profile or {}).items() if k in names}
        loaded, actors = load_bundle(bundle, mode="frame"), load_bundle(mode="scene")
        self.bundle = loaded
        self._painter, self._actors = Generator(loaded, **settings), Generator(actors, **settings)
        self.cast, self.facing = load_cast(actors)

    def loop(self, source: SourceLike, sink: SinkLike, *, analyse: Analyse,
             encoder: LayoutEncoder) -> FrameLoop:  # fmt: skip
        """A loop with its own answers, noise and cast: nothing is kept from an earlier one."""
        random = np.random.default_rng(secrets.randbits(128))
        latent = random.standard_normal(NOISE_SIZE).astype(np.float32)

        def paint_scene(values: Float32[np.ndarray, " v"]) -> UInt8[np.ndarray, "h w 3"]:
            return np.ascontiguousarray(self._painter.paint(values, latent)[..., :3])

        def paint_actors(actors: tuple[ActorCode, ...]) -> Patches:
            return Patches(bgra=tuple(self._actors.paint(a.values, a.latent) for a in actors))

        return FrameLoop(
            source, sink, analyse=analyse, encoder=encoder, paint_scene=paint_scene,
            casting=Casting(self.cast), paint_actors=paint_actors,
            bundle_sha256=self.bundle.sha256,
        )  # fmt: skip


def build_loop(
    source: SourceLike,
    sink: SinkLike,
    *,
    bundle: Path | None = None,
    delay_frames: int = 0,
    profile: Mapping[str, Any] | None = None,
) -> FrameLoop:
    """The product's loop of `frame` mode; arguments as of `loop.build_loop`.

    Raises:
        ConfigError: A delay is asked for: here nothing has to be hidden in earlier frames.
    """
    if delay_frames:
        raise ConfigError(
            f"delay_frames={delay_frames}: frame mode needs none, for it shows no live pixel; "
            "leave --delay out"
        )
    models = FrameModels(bundle, profile)
    analyser = PeopleAnalyser(models.facing, proof=None)
    analyser.warm_up(source.size_hw)
    # a capture process that is started again must not answer the same question in another way
    strength = chosen()
    encoder = LayoutEncoder(strength=strength, random_bytes=run_noise(f"cells {strength.value}"))
    return models.loop(source, sink, analyse=analyser, encoder=encoder)
