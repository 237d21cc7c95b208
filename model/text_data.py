"""Public pictures with their looks: what captions are made of, and the classes' places.

Nothing private is opened here: the pack holds machine-made and simulated people only.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.text_tokens import COLUMNS, LOOKS, NUM_STATIC, SAID
from veilcam.model.attributes import Measure, fit_logistic, labels_by_eye, log_odds

_log = logging.getLogger(__name__)
# L*a*b* of hair by name: round numbers between what is measured on pictures of that name.
HAIR_TONES = {
    "black": (8.0, 1.0, 1.0),
    "dark brown": (18.0, 4.0, 6.0),
    "brown": (31.0, 8.0, 13.0),
    "blond": (54.0, 8.0, 24.0),
    "red": (40.0, 25.0, 30.0),
    "grey": (50.0, 1.0, 3.0),
    "white": (74.0, 1.0, 4.0),
    "dyed": (45.0, 0.0, -25.0),
}
_DYED_CHROMA = 42.0
SKIN_EDGES = (38.0, 55.0, 70.0)  # L* between the classes of `light.SKIN_CLASSES`
AGE_EDGES = (14.0, 33.0, 52.0)  # years
LENGTH_EDGES = (0.18, 0.55)  # opacity beside the jaw
BALD_GAP = 11.0  # L*a*b* distance of crown and skin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """What was measured on a set of heads.

    Attributes:
        names: As in the training pack, `domain/file`.
        numbers: `COLUMNS`; beard and glasses NaN.
        eyes, lower: Features of two crops.
        flag: Probability of a face.
    """

    names: list[str]
    numbers: Float32[np.ndarray, "n c"]
    eyes: Float32[np.ndarray, "n 1024"]
    lower: Float32[np.ndarray, "n 1024"]
    flag: Float32[np.ndarray, " n"]

    @classmethod
    def of(
        cls, bgra: UInt8[np.ndarray, "n 128 128 4"], names: list[str], models: Path
    ) -> "Measured":
        """Measures every head; about 30 ms each on one core."""
        measure = Measure(models)
        rows = []
        for number, head in enumerate(bgra):
            rows.append(measure(head))
            if number % 1000 == 999:
                _log.info("%d of %d heads measured", number + 1, len(bgra))
        return cls(
            names=names,
            numbers=np.stack([row.numbers for row in rows]),
            eyes=np.stack([row.eyes for row in rows]),
            lower=np.stack([row.lower for row in rows]),
            flag=np.array([row.flag for row in rows], np.float32),
        )

    def save(self, path: Path) -> None:
        """Keeps it as float16; by rename."""
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            names=np.array(self.names),
            numbers=self.numbers,
            eyes=self.eyes.astype(np.float16),
            lower=self.lower.astype(np.float16),
            flag=self.flag,
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Measured":
        """What `save` kept."""
        with np.load(path) as file:
            return cls(
                names=file["names"].tolist(),
                numbers=file["numbers"],
                eyes=file["eyes"].astype(np.float32),
                lower=file["lower"].astype(np.float32),
                flag=file["flag"],
            )


def half_of(names: list[str]) -> np.ndarray:
    """A fixed half of pictures: True for those that teach, False for those that judge."""
    import hashlib

    return np.array([hashlib.sha256(name.encode()).digest()[0] % 2 == 0 for name in names])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """Beard and glasses from features of two crops, learned from labels by eye."""

    beard: Float32[np.ndarray, " d1"]
    glasses: Float32[np.ndarray, " d1"]

    @classmethod
    def fit(cls, measured: Measured) -> "Teacher":
        """Learns from the teaching half only."""
        teaching = half_of(measured.names)
        fitted = {}
        for look, x in (("beard", measured.lower), ("glasses", measured.eyes)):
            y = labels_by_eye(measured.names, look)
            use = teaching & np.isfinite(y)
            fitted[look] = fit_logistic(x[use].astype(np.float64), y[use])
        return cls(**fitted)

    def complete(self, measured: Measured) -> Float32[np.ndarray, "n c"]:
        """All of `COLUMNS`."""
        out = measured.numbers.copy()
        out[:, COLUMNS.index("beard")] = log_odds(self.beard, measured.lower)
        out[:, COLUMNS.index("glasses")] = log_odds(self.glasses, measured.eyes)
        return out


def static_tokens(numbers: Float32[np.ndarray, "n c"]) -> Int64[np.ndarray, "n s"]:
    """Classes of `LOOKS`; -1 where a number is not there (no hair to see the tone of)."""
    column = {name: numbers[:, index] for index, name in enumerate(COLUMNS)}
    hair = np.stack([column["hair_l"], column["hair_a"], column["hair_b"]], axis=1)
    bald = ~(column["hair_gap"] > BALD_GAP)
    length = np.where(bald, 0, 1 + np.digitize(column["hair_length"], LENGTH_EDGES))
    tokens = {
        "sex": (column["sex"] > 0).astype(int),
        "age": np.digitize(column["age"], AGE_EDGES),
        "skin": np.digitize(column["skin"], SKIN_EDGES),
        "hair_tone": np.where(bald, -1, hair_tone(hair)),
        "hair_length": length,
        "beard": (column["beard"] > 0).astype(int),
        "glasses": (column["glasses"] > 0).astype(int),
    }
    return np.stack([tokens[look.name] for look in LOOKS], axis=1).astype(np.int64)


def hair_tone(lab: Float32[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    """Nearest of `HAIR_TONES`; blue, green and the like are dyed. -1 for NaN."""
    tones = np.array(list(HAIR_TONES.values()))
    weight = np.array([1.0, 1.5, 1.5])  # hue tells more than light
    distance = np.square((lab[:, None] - tones) * weight).sum(-1)
    out = np.argmin(np.nan_to_num(distance, nan=0.0), axis=1)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    strange = (lab[:, 2] < -8) | (lab[:, 1] < -8) | (chroma > 1.6 * _DYED_CHROMA)
    out = np.where(strange, list(HAIR_TONES).index("dyed"), out)
    return np.where(np.isfinite(lab).all(1), out, -1).astype(np.int64)


def dynamic_tokens(values: Float32[np.ndarray, "n f"]) -> Int64[np.ndarray, "n d"]:
    """Levels of the said fields of code values in `HEAD_FIELDS` order."""
    at = {field.name: index for index, field in enumerate(HEAD_FIELDS)}
    columns = [
        [field.quantize(float(value)) for value in values[:, at[field.name]]] for field in SAID
    ]
    return np.array(columns, np.int64).T


def all_tokens(
    numbers: Float32[np.ndarray, "n c"], values: Float32[np.ndarray, "n f"]
) -> Int64[np.ndarray, "n t"]:
    """Every token of every head."""
    out = np.concatenate([static_tokens(numbers), dynamic_tokens(values)], axis=1)
    assert out.shape[1] == NUM_STATIC + len(SAID)
    return out
