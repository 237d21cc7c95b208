"""The storm's parts of `scene` and `frame` mode: the product's loops, with hops that fail.

Real are the loops, the plate's learner, both encoders, the painter's decoder and the composition;
detection and painting are fakes that do as the storm says.
"""

import os
import time

from sentinel import COLOURS_BGR
from storm import Parts, changed


class SceneParts(Parts):
    """Analysis and painting of the storm: right, but for the fault of the frame."""

    # the analyser
    def __call__(self, frame):
        self.begin(frame)
        strikes = self.weather.strikes
        if strikes("detector.raise"):
            raise RuntimeError("detector")
        if strikes("detector.memory"):
            raise MemoryError
        if self.dies("detector.none"):
            return None
        if self.dies("detector.garbage"):
            return "nobody"
        if self.dies("detector.hang"):
            time.sleep(1e4)
        return self.people(frame)

    def people(self, frame):
        import numpy as np
        from scene_parts import body

        from veilcam.camera.scene_types import People, Person

        strikes, nan = self.weather.strikes, float("nan")
        ys, xs = np.nonzero(frame.bgr[..., 0] == COLOURS_BGR[0][0])  # never misses
        left, top = float(xs.min()) - 2, float(ys.min()) - 2
        box = left, top, float(np.ptp(xs)) + 5, float(np.ptp(ys)) + 5
        person = Person(
            track_id=0, box_xywh=box, points=body(box), facing_deg=0.0,
            colours_bgr=np.full((4, 3), 100, np.float32), is_predicted=False,
        )  # fmt: skip
        hidden = ((left - 4, top - 4, box[2] + 8, box[3] + 8),)
        if strikes("detector.nan"):
            person = changed(person, points=person.points * np.float32(nan))
        if strikes("detector.shape"):
            person = changed(person, points=person.points[:3])
        if strikes("tracker.nan_place"):
            person, hidden = changed(person, box_xywh=(nan,) * 4), ((nan,) * 4,)
        if strikes("tracker.zero_size"):
            person = changed(person, box_xywh=(left, top, 0.0, 0.0))
        persons = (person, person) if strikes("tracker.duplicate") else (person,)
        return People(size_hw=frame.bgr.shape[:2], people=persons, hidden=hidden, is_alive=True)

    # the encoder
    def coded(self, encode, missing, broken):
        """What `encode` gives, or what a broken one would."""
        strikes = self.weather.strikes
        if strikes("code.raise"):
            raise RuntimeError("code")
        if strikes("code.garbage"):
            return 7
        code = encode()
        if strikes("code.nan"):
            code = broken(code)
        if strikes("code.missing_head"):
            code = missing(code)
        return code

    # the painters
    def paint_actors(self, actors):
        return self.painted((192, 96), len(actors))

    def painted(self, size_hw, count):
        import numpy as np

        from veilcam.camera.types import Patches

        strikes = self.weather.strikes
        if strikes("generator.raise"):
            raise RuntimeError("generator")
        if strikes("generator.none"):
            return None
        if self.dies("generator.hang"):
            time.sleep(1e4)
        if self.dies("generator.exit"):
            os._exit(3)
        patch = np.full((*size_hw, 4), (120, 130, 140, 255), np.uint8)
        if strikes("generator.garbage"):
            patch = np.full((*size_hw, 4), np.inf)
        if strikes("generator.shape"):
            patch = patch[..., :3]
        if strikes("generator.float"):
            patch = patch.astype(np.float32) * np.nan
        return Patches(bgra=(patch,) * (0 if strikes("generator.too_few") else count))


def build_scene(parts, source, sink):
    """The loop of `scene` mode; its plate is learned in half a second."""
    import numpy as np
    from scene_parts import make_cast

    from veilcam.camera.actor_code import ActorEncoder
    from veilcam.camera.plate import PlateLearner
    from veilcam.camera.plate_privacy import PlateConfig
    from veilcam.camera.scene_loop import SceneLoop

    class Encoder(ActorEncoder):
        def encode(self, people, light):
            def broken(code):
                nan = tuple(changed(a, values=a.values * np.nan, left=np.nan) for a in code.actors)
                return changed(code, actors=nan)

            return parts.coded(
                lambda: super(Encoder, self).encode(people, light),
                lambda code: changed(code, actors=()),
                broken,
            )

    return SceneLoop(
        source, sink, analyse=parts, encoder=Encoder(make_cast()),
        learner=PlateLearner(source.size_hw, PlateConfig(setup_slot_s=0.05)),
        paint=lambda codes: parts.paint_actors(codes.actors),
    )  # fmt: skip


def build_frame(parts, source, sink):
    """The loop of `frame` mode."""
    import numpy as np
    from scene_parts import make_cast

    from veilcam.camera.frame_loop import FrameLoop
    from veilcam.camera.layout_code import LayoutEncoder
    from veilcam.camera.layout_tokens import Casting
    from veilcam.camera.painting import PATCH_HW
    from veilcam.camera.strength import Strength

    class Encoder(LayoutEncoder):
        def encode(self, frame, people):
            return parts.coded(
                lambda: super(Encoder, self).encode(frame, people),
                lambda code: changed(code, tokens=()),
                lambda code: changed(code, cells=np.full(code.cells.shape, np.nan, np.float32)),
            )

    def paint_scene(values):
        patches = parts.painted(PATCH_HW, 1)
        return np.ascontiguousarray(patches.bgra[0][..., :3])

    return FrameLoop(
        source, sink, analyse=parts, encoder=Encoder(strength=Strength.BALANCED),
        paint_scene=paint_scene, casting=Casting(make_cast()), paint_actors=parts.paint_actors,
    )  # fmt: skip


def build_loop(mode, parts, source, sink):
    """The loop of a mode, and the module whose `compose_scene` it calls."""
    from veilcam.camera import frame_loop, scene_loop

    if mode == "scene":
        return build_scene(parts, source, sink), scene_loop
    return build_frame(parts, source, sink), frame_loop
