"""Looks measured on a head: skin, hair, apparent sex and age, beard, glasses, each as numbers.

The same measures are taken of public pictures, from which captions are made, and of painted heads,
from which it is learned what a latent looks like. `Apparent` is meant: nobody is there.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.errors import ConfigError
from veilcam.camera.face_mesh import FaceMesh, similarity
from veilcam.camera.light import DEFAULT_SKIN_BGR, measure_skin
from veilcam.camera.text_tokens import COLUMNS

GREY = 127
LOOKS = ("glasses", "beard", "old", "child")  # judged by eye, see presets/looks.toml
_MESH_CENTER, _MESH_SIDE = (64.0, 70.0), 112.0  # of the face in a patch
_JAW = ((172, -1), (397, 1))  # corners of the jaw, and where outside lies
_BESIDE_PX = (3, 25)
_EYES, _LOWER = (168, 2.5), (17, 2.3)  # mesh point and side in eye distances of two crops
_FEATURE_STEP = np.float32(6 / 255)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What is measured on one head before anything is learned.

    Attributes:
        numbers: `COLUMNS` but for beard and glasses, which are left NaN.
        eyes, lower: Features (1024) of the crops round eyes and chin.
        flag: Probability by the face mesh that this is a face.
    """

    numbers: Float32[np.ndarray, " c"]
    eyes: Float32[np.ndarray, " 1024"]
    lower: Float32[np.ndarray, " 1024"]
    flag: float


class Measure:
    """Measures heads in the generator's framing.

    Args:
        models: Folder with faceres.onnx and the MobileNet features.
        threads: Threads of each net.
    """

    def __init__(self, models: Path, *, threads: int = 1) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self._mesh = FaceMesh(assets / "facemesh.onnx", threads=threads)
        self._faceres = open_net(models / "faceres.onnx", threads)
        self._features = open_net(models / "mobilenet_v1_1.0_224_int8_embed1024.onnx", threads)

    def mesh(self, bgr: UInt8[np.ndarray, "128 128 3"]) -> tuple[np.ndarray, float]:
        """Face mesh of an aligned head in patch pixels, and the probability of a face."""
        return self._mesh(bgr, _MESH_CENTER, _MESH_SIDE, 0.0)

    def __call__(self, bgra: UInt8[np.ndarray, "128 128 4"]) -> Seen:
        """Measures one aligned head, straight alpha."""
        bgr = over_grey(bgra)
        mesh, flag = self.mesh(bgr)
        points = mesh[:, :2]
        numbers = dict.fromkeys(COLUMNS, np.nan)
        skin = measure_skin(bgr, points)
        skin = np.asarray(DEFAULT_SKIN_BGR) if skin is None else skin
        numbers["skin"] = float(to_lab(skin)[0])
        hair = hair_lab(bgra, points)
        numbers["hair_l"], numbers["hair_a"], numbers["hair_b"] = hair
        numbers["hair_gap"] = float(np.linalg.norm(hair - to_lab(skin)))
        numbers["hair_length"] = hair_beside_jaw(bgra, points)
        numbers["sex"], numbers["age"] = self._sex_and_age(bgr, points)
        return Seen(
            numbers=np.array([numbers[name] for name in COLUMNS], np.float32),
            eyes=self._crop_features(bgr, points, _EYES),
            lower=self._crop_features(bgr, points, _LOWER),
            flag=flag,
        )

    def _sex_and_age(
        self, bgr: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "p 2"]
    ) -> tuple[float, float]:
        """Log-odds of male, and years, as FaceRes guesses them from a tight crop."""
        low, high = points.min(0), points.max(0)
        center = (float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2)
        crop = cut(bgr, center, 1.2 * float((high - low).max()), 224)
        rgb = np.ascontiguousarray(crop[None, ..., ::-1], np.float32)
        names = ["gender_pred/Sigmoid:0", "age_pred/Softmax:0"]
        sex, age = self._faceres.run(names, {"input_1:0": rgb})
        share = float(np.clip(sex[0, 0], 1e-4, 1 - 1e-4))
        return float(np.log(share / (1 - share))), float(age[0] @ np.arange(100))

    def _crop_features(
        self,
        bgr: UInt8[np.ndarray, "h w 3"],
        points: Float[np.ndarray, "p 2"],
        where: tuple[int, float],
    ) -> Float32[np.ndarray, " 1024"]:
        point, factor = where
        eyes = points[[33, 133]].mean(0) - points[[362, 263]].mean(0)
        side = max(factor * float(np.hypot(*eyes)), 8.0)
        center = (float(points[point, 0]), float(points[point, 1]))
        rgb = np.ascontiguousarray(cut(bgr, center, side, 224)[None, ..., ::-1])
        (levels,) = self._features.run(None, {"input": rgb})
        return np.asarray(levels.reshape(-1).astype(np.float32) * _FEATURE_STEP)


def cut(
    bgr: UInt8[np.ndarray, "h w 3"], center: tuple[float, float], side: float, out_px: int
) -> UInt8[np.ndarray, "p p 3"]:
    """An upright square of a picture, its border repeated."""
    matrix = similarity(center, side, 0.0, out_px)
    return np.asarray(
        cv2.warpAffine(
            bgr, matrix, (out_px, out_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
    )


def over_grey(bgra: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """The head laid over flat grey by its alpha."""
    alpha = bgra[..., 3:].astype(np.float32) / 255
    return (bgra[..., :3] * alpha + GREY * (1 - alpha)).astype(np.uint8)


def to_lab(bgr: Float[np.ndarray, "*n 3"]) -> Float32[np.ndarray, "*n 3"]:
    """CIE L*a*b* (D65) of BGR colours 0-255.

    >>> to_lab(np.array([255.0, 255.0, 255.0])).round().tolist()
    [100.0, 0.0, 0.0]
    """
    flat = (np.asarray(bgr, np.float32) / np.float32(255)).reshape(1, -1, 3)
    return np.asarray(cv2.cvtColor(flat, cv2.COLOR_BGR2Lab)).reshape(np.shape(bgr))


def hair_lab(
    bgra: UInt8[np.ndarray, "h w 4"], points: Float[np.ndarray, "p 2"]
) -> Float32[np.ndarray, " 3"]:
    """Median colour, L*a*b*, of what is opaque above the forehead; NaN where nothing is."""
    top = points[10]
    half = 0.45 * float(np.ptp(points[:, 0]))
    ys, xs = np.mgrid[: bgra.shape[0], : bgra.shape[1]]
    band = (ys < top[1] - 2) & (np.abs(xs - top[0]) < half) & (bgra[..., 3] > 200)
    if band.sum() < 30:
        return np.full(3, np.nan, np.float32)
    return to_lab(np.median(bgra[band][:, :3].astype(np.float32), axis=0))


def hair_beside_jaw(bgra: UInt8[np.ndarray, "h w 4"], points: Float[np.ndarray, "p 2"]) -> float:
    """Mean opacity, 0-1, beside the jaw between mouth and chin: long hair hangs there."""
    top, bottom = (round(float(points[i, 1])) for i in (13, 152))
    means = []
    for point, side in _JAW:
        edge = float(points[point, 0])
        near, far = (round(edge + side * px) for px in _BESIDE_PX)
        left, right = sorted((near, far))
        part = bgra[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0), 3]
        if part.size:
            means.append(float(part.mean()) / 255)
    return float(np.mean(means)) if means else 0.0


def open_net(path: Path, threads: int = 1) -> ort.InferenceSession:
    """A quiet session of one of the kept models."""
    if not path.is_file():
        raise ConfigError(f"{path} is not there, wanted to measure looks; name the models' folder")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def looks_by_eye() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Look -> names of machine-made pictures that have it, and of those where it is unsure."""
    text = (files("veilcam.model.presets") / "looks.toml").read_text()
    return {
        look: (frozenset(entry["yes"]), frozenset(entry["unsure"]))
        for look, entry in tomllib.loads(text).items()
    }


def labels_by_eye(names: list[str], look: str) -> Float32[np.ndarray, " n"]:
    """1 has it, 0 has it not, NaN unsure or never looked at. Names as in the training pack."""
    yes, unsure = looks_by_eye()[look]
    out = np.full(len(names), np.nan, np.float32)
    for row, name in enumerate(names):
        domain, _, file = name.partition("/")
        stem = file.removeprefix("syn_").removesuffix(".jpg")
        if domain == "synthetic" and stem not in unsure:
            out[row] = float(stem in yes)
    return out


def fit_logistic(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], *, ridge: float = 1.0, steps: int = 12
) -> Float32[np.ndarray, " d1"]:
    """Weights and bias of a class-balanced logistic regression with a ridge, by Newton steps.

    Solved in the span of the rows (kernel form), so that 1,024 features cost no more than n rows.
    Source: Bishop 2006, Pattern recognition and machine learning, section 4.3.3.
    """
    center, scale = x.mean(0), np.maximum(x.std(0), 0.05)
    design = (x - center) / scale / np.sqrt(x.shape[1])
    weight = np.where(y > 0.5, 0.5 / max(y.mean(), 1e-9), 0.5 / max(1 - y.mean(), 1e-9))
    gram = design @ design.T
    dual, bias = np.zeros(len(y)), 0.0
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(gram @ dual + bias, -30, 30)))
        curve = np.maximum(weight * p * (1 - p), 1e-4)
        target = gram @ dual + bias + weight * (y - p) / curve
        system = np.block(
            [[gram + ridge * np.diag(1 / curve), np.ones((len(y), 1))], [np.ones((1, len(y))), 0]]
        )
        solution = np.linalg.solve(system, np.append(target, 0.0))
        dual, bias = solution[:-1], float(solution[-1])
    weights = design.T @ dual / scale / np.sqrt(x.shape[1])
    return np.append(weights, bias - center @ weights).astype(np.float32)


def log_odds(
    weights: Float32[np.ndarray, " d1"], x: Float[np.ndarray, "n d"]
) -> Float32[np.ndarray, " n"]:
    """What `fit_logistic` says of rows."""
    return np.asarray(x @ weights[:-1] + weights[-1], np.float32)
