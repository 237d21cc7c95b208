"""Face recognizers of the audit: a face in a picture -> a unit vector that tells people apart."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.audit_faces import Face, fit_similarity, turned_square
from veilcam.camera.errors import ConfigError

MODELS_VARIABLE = "VEILCAM_MODELS"
FEATURES_FILE = "mobilenet_v1_1.0_224_int8_embed1024.onnx"
# ArcFace's five points in a 112x112 crop
_ARCFACE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
_FEATURE_STEP = 6 / 255  # the graph answers in levels of its relu6
_BOX_FACTOR = 1.2  # FaceRes wants a tight crop: side over the longer side of the face box


@dataclass(frozen=True, slots=True)
class Recognizer:
    """One recognizer: crops as its training did, and runs the graph.

    Attributes:
        name: What reports call it.
        dim: Length of its vectors.
        crop: Picture and face -> the crop it wants, BGR.
        run: Crops (n, h, w, 3) BGR -> vectors (n, dim).
    """

    name: str
    dim: int
    crop: Callable[[np.ndarray, Face], np.ndarray]
    run: Callable[[np.ndarray], np.ndarray]

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"], face: Face) -> Float32[np.ndarray, " d"]:
        """Unit vector of one face."""
        vector = self.run(self.crop(bgr, face)[None])[0]
        return np.asarray(unit(vector[None])[0], np.float32)


def unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows scaled to length 1; a row of zeros stays as it is."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def crop_arcface(bgr: UInt8[np.ndarray, "h w 3"], face: Face) -> UInt8[np.ndarray, "112 112 3"]:
    """112x112 crop with eyes, nose and mouth where ArcFace wants them."""
    matrix = fit_similarity(face.landmarks, _ARCFACE)
    return np.asarray(cv2.warpAffine(bgr, matrix, (112, 112), borderMode=cv2.BORDER_REPLICATE))


def crop_box(bgr: UInt8[np.ndarray, "h w 3"], face: Face) -> UInt8[np.ndarray, "224 224 3"]:
    """224x224 square round the face box, turned upright."""
    side = _BOX_FACTOR * max(face.box_xywh[2:])
    matrix = turned_square(face.center, side, face.roll_deg, 224)
    return np.asarray(cv2.warpAffine(bgr, matrix, (224, 224), borderMode=cv2.BORDER_REPLICATE))


def model_folders(models: Path | None = None, people: Path | None = None) -> list[Path]:
    """Where recognizers may lie, first wins: named, environment, beside the people, package."""
    named = [models] if models else []
    variable = os.environ.get(MODELS_VARIABLE)
    near = [parent / "models" for parent in people.resolve().parents] if people else []
    own = Path(str(files("veilcam.camera") / "assets"))
    return [*named, *([Path(variable)] if variable else []), *near, own]


def find_model(name: str, folders: list[Path]) -> Path | None:
    """First file of that name in the folders."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def load_recognizers(folders: list[Path], *, threads: int = 2) -> tuple[Recognizer, ...]:
    """Every recognizer whose model is in the folders, fastest first."""
    found = []
    if path := find_model("mobileface.onnx", folders):
        found.append(Recognizer("mobileface", 256, crop_arcface, _runner(path, None, threads)))
    if path := find_model("faceres.onnx", folders):
        run = _runner(path, "global_pooling/Mean", threads)
        found.append(Recognizer("faceres", 1024, crop_box, run))
    if not found:
        raise ConfigError(
            f"no recognizer in {', '.join(map(str, folders))}, wanted mobileface.onnx and"
            f" faceres.onnx; give --models or set {MODELS_VARIABLE}"
        )
    return tuple(found)


def load_attributes(folders: list[Path]) -> Callable[[np.ndarray, Face], tuple[float, float]]:
    """Apparent sex (0 female - 1 male) and apparent age in years, as FaceRes guesses them.

    Raises:
        ConfigError: The model is not there.
    """
    path = find_model("faceres.onnx", folders)
    if path is None:
        raise ConfigError("faceres.onnx is not there, wanted for attributes; give --models")
    session = open_session(path)
    names = ["gender_pred/Sigmoid:0", "age_pred/Softmax:0"]
    years = np.arange(100)

    def guess(bgr: np.ndarray, face: Face) -> tuple[float, float]:
        feed = {session.get_inputs()[0].name: _rgb(crop_box(bgr, face)[None])}
        sex, age = session.run(names, feed)
        return float(sex[0, 0]), float(age[0] @ years)

    return guess


def load_features(folders: list[Path]) -> Callable[[np.ndarray], np.ndarray] | None:
    """General picture features for KID: BGR crop -> 1024 numbers; None without the model."""
    path = find_model(FEATURES_FILE, folders)
    if path is None:
        return None
    session = open_session(path)
    name = session.get_inputs()[0].name

    def run(bgr: np.ndarray) -> np.ndarray:
        rgb = cv2.resize(bgr, (224, 224), interpolation=cv2.INTER_AREA)[None, ..., ::-1]
        levels = session.run(None, {name: np.ascontiguousarray(rgb)})[0]
        return np.asarray(levels.reshape(-1) * _FEATURE_STEP)

    return run


def open_session(path: Path, *, threads: int = 2) -> ort.InferenceSession:
    """A session that is quiet and does not spin."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _runner(path: Path, output: str | None, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    session = open_session(path, threads=threads)
    name = session.get_inputs()[0].name
    outputs = [output] if output else [session.get_outputs()[0].name]

    def run(crops: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(outputs, {name: _rgb(crops)})[0])

    return run


def _rgb(crops: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n h w 3"]:
    return np.ascontiguousarray(crops[..., ::-1], np.float32)
