"""One pass over the pictures: what recognizers see of each view, as arrays; no pixel is kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera import head_model
from veilcam.camera.audit_faces import Face, FaceFinder
from veilcam.camera.audit_people import Picture
from veilcam.camera.audit_protect import (
    PEERS,
    Protection,
    copy_of,
    plant_leak,
    protect_like,
    thumbnail,
)
from veilcam.camera.audit_recognizers import Recognizer, crop_box
from veilcam.camera.face_mesh import BOX_FACTOR, FaceMesh

if TYPE_CHECKING:
    from veilcam.camera.audit_state import AuditState

ORIGINAL, COPY, OURS, PLANTED = "original", "copy", "veilcam", "planted"
PIXELS = "pixels"  # what an attacker who learns sees beside a recognizer's vector
VIEWS = (ORIGINAL, COPY, OURS, PLANTED, *PEERS)
LEARN_VIEWS = (ORIGINAL, OURS, PLANTED, "blur", "pixelate")  # what attackers are trained on


@dataclass(frozen=True, slots=True)
class Instruments:
    """All that looks at pictures."""

    protection: Protection
    finder: FaceFinder
    recognizers: tuple[Recognizer, ...]
    mesh: FaceMesh
    guess: Callable[[np.ndarray, Face], tuple[float, float]] | None
    features: Callable[[np.ndarray], np.ndarray] | None


@dataclass(slots=True)
class Shot:
    """Numbers of one picture; repr withholds the person.

    Attributes:
        person, number: As in the picture.
        vectors: (view, recognizer) -> unit vector.
        code: The code's row, or None where analysis found no head.
        planted: A thumbnail of the face, for the planted leak in the code.
        features: view -> general features, for KID.
        look: view -> landmarks' distance to the original over the eye distance, yaw, pitch, roll
            and expression; only of views in which a face was found.
        traits: Apparent sex and age, and lightness of the middle of the face.
        num_faces: view -> faces found.
    """

    person: str
    number: int
    vectors: dict[tuple[str, str], Float32[np.ndarray, " d"]] = field(default_factory=dict)
    code: Float32[np.ndarray, " c"] | None = None
    planted: Float32[np.ndarray, " t"] | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)
    look: dict[str, dict[str, float]] = field(default_factory=dict)
    traits: dict[str, float] = field(default_factory=dict)
    num_faces: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Shot(withheld)"


def load_mesh() -> FaceMesh:
    """The face mesh as the judge of pose and expression."""
    return FaceMesh(Path(str(files("veilcam.camera") / "assets" / "facemesh.onnx")), threads=2)


def measure(
    pictures: Iterable[Picture], tools: Instruments, *, is_learning: bool,
    tick: Callable[[], None], state: "AuditState | None" = None,
) -> list[Shot]:  # fmt: skip
    """One shot for each picture in which the judge finds a face.

    Args:
        pictures: Read one by one; pixels are dropped before the next.
        tools: Instruments.
        is_learning: True for pictures that attackers learn on: fewer views, no utility.
        tick: Called after each picture.
        state: Keeps the numbers, and has those of an audit that was interrupted.
    """
    shots = []
    for picture in pictures:
        who = picture.person, picture.number
        is_known, shot = state.get(*who, is_learning=is_learning) if state else (False, None)
        if not is_known:
            shot = _measure_one(picture, tools, is_learning)
            if state is not None:
                state.put(*who, shot, is_learning=is_learning)
        if shot is not None:
            shots.append(shot)
        tick()
    return shots


def _measure_one(picture: Picture, tools: Instruments, is_learning: bool) -> Shot | None:
    original = picture.read()
    faces = tools.finder(original)
    if not faces:
        return None
    face = faces[0]
    shot = Shot(picture.person, picture.number)
    protected = tools.protection(original)
    shot.code = protected.code
    shot.planted = thumbnail(original, face.box_xywh)
    if tools.guess is not None:
        sex, age = tools.guess(original, face)
        middle = crop_box(original, face)[90:150, 80:144].astype(float)
        shot.traits = {"sex": sex, "age": age, "skin": float(middle.mean())}
    for view in LEARN_VIEWS if is_learning else VIEWS:
        bgr = _view(view, original, protected.bgr, protected.hulls)
        shown = tools.finder(bgr) if view != ORIGINAL else faces
        near = next((f for f in shown if face.is_at(f)), None)
        # an attacker knows where the head was; where nothing is found he looks there
        shot.vectors[view, PIXELS] = pixel_row(crop_box(bgr, near or face))
        for recognizer in tools.recognizers:
            shot.vectors[view, recognizer.name] = recognizer(bgr, near or face)
        if not is_learning:
            shot.num_faces[view] = len(shown)
            _measure_use_into(shot, view, bgr, face, near, tools)
    return shot


def pixel_row(crop: UInt8[np.ndarray, "s s 3"]) -> Float32[np.ndarray, " p"]:
    """A face as a coarse picture: 16x16 grey levels without mean and contrast, 4x4 colours.

    Recognizers are blind to much that blur and pixelation leave; an attacker who learns is not.
    """
    grey = cv2.resize(
        cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), (16, 16), interpolation=cv2.INTER_AREA
    )
    flat = grey.astype(np.float32).reshape(-1)
    flat = (flat - flat.mean()) / max(float(flat.std()), 1e-3)
    colour = cv2.resize(crop, (4, 4), interpolation=cv2.INTER_AREA).astype(np.float32) / 64 - 2
    return np.concatenate([flat, colour.reshape(-1)]).astype(np.float32)


def _view(
    view: str, original: np.ndarray, protected: np.ndarray, hulls: tuple[np.ndarray, ...]
) -> np.ndarray:
    if view == ORIGINAL:
        return original
    if view == COPY:
        return copy_of(original)
    if view == OURS:
        return protected
    if view == PLANTED:
        return plant_leak(original, protected)
    return protect_like(view, original, hulls)


def _measure_use_into(
    shot: Shot, view: str, bgr: np.ndarray, face: Face, near: Face | None, tools: Instruments
) -> None:
    if tools.features is not None:
        shot.features[view] = tools.features(crop_box(bgr, face))
    if near is None:
        return
    eye_px = max(float(np.hypot(*(face.landmarks[1] - face.landmarks[0]))), 1.0)
    error = np.linalg.norm(near.landmarks - face.landmarks, axis=1).mean() / eye_px
    x, y = (float(v) for v in near.center)
    side = BOX_FACTOR * max(near.box_xywh[2:])
    mesh, _ = tools.mesh(bgr, (x, y), side, near.roll_deg)
    pose = head_model.fit_pose(mesh)
    expression = head_model.measure_expression(pose.canonical)
    shot.look[view] = {
        "landmark_error": float(error),
        "yaw": pose.yaw_deg,
        "pitch": pose.pitch_deg,
        "roll": pose.roll_deg,
        **{k: expression[k] for k in ("mouth_open", "mouth_wide", "smile", "brow")},
        "eyelids": (expression["eyelid_left"] + expression["eyelid_right"]) / 2,
    }
