"""Words -> a person who does not exist: the text net, and the looks of a bundle's latents.

The text net writes the code's tokens one after another, or that the words do not speak of one.
Static tokens then choose a latent: of the Gaussian from which every stand-in is drawn, the draw is
conditioned on the looks that were asked for. No pixel of anybody takes part.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from jaxtyping import Float32

from veilcam.camera.cast import TEXT_PART
from veilcam.camera.code import HEAD_FIELDS, StandIn
from veilcam.camera.errors import ConfigError, GraphError, InputError
from veilcam.camera.generator import open_graph
from veilcam.camera.manifest import Bundle, default_bundle_path, load_pins
from veilcam.camera.text_looks import Looks
from veilcam.camera.text_tokens import (
    LOOKS,
    MAX_SIZE,
    NUM_STATIC,
    NUM_TOKENS,
    SAID,
    UNSAID_CLASS,
    Vocabulary,
    words_of,
)

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FILES = ("text.onnx", "looks.npz")
_SHOWN_SHARE = 0.4  # of a change of the code must show on a painted head
_CALLED = {"eyelid_left": "closed eyes", "eyelid_right": "closed eyes"}
_NOUN = "person"  # of prompts that have none: "smiling" is read as "person smiling"
_UNSAID_SHARE = 0.5  # from this probability on the words do not speak of a token
# What a head does that no word speaks of, in the fields' units; it is also lit so.
CALM = {
    "mouth_open": 0.02,
    "mouth_wide": 0.85,
    "smile": 0.055,
    "eyelid_left": 0.13,
    "eyelid_right": 0.13,
    "gaze_y": 0.055,
    "brow": 0.385,
    "light_y": 0.2,
}
_CURE = "make it again: python -m veilcam.export.text BUNDLE"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """What the net wrote for one person.

    Attributes:
        levels: One for each of `text_tokens.NAMES`; None where the words do not speak of it.
    """

    levels: tuple[int | None, ...]

    @property
    def looks(self) -> dict[str, str]:
        """The static tokens that were asked for, in words."""
        return {
            look.name: look.classes[level]
            for look, level in zip(LOOKS, self.levels, strict=False)
            if level is not None
        }

    @property
    def classes(self) -> dict[str, int]:
        """The static tokens that were asked for, as numbers."""
        return {
            look.name: level
            for look, level in zip(LOOKS, self.levels, strict=False)
            if level is not None
        }

    @property
    def values(self) -> Float32[np.ndarray, " f"]:
        """Code values in `HEAD_FIELDS` order: what was asked for, and else a calm, frontal head."""
        said = {
            field.name: field.dequantize(level)
            for field, level in zip(SAID, self.levels[NUM_STATIC:], strict=True)
            if level is not None
        }
        calm = CALM | said
        return np.array([calm.get(field.name, 0.0) for field in HEAD_FIELDS], np.float32)

    @property
    def has_expression(self) -> bool:
        """True where the words spoke of pose or expression."""
        return any(level is not None for level in self.levels[NUM_STATIC:])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Person(StandIn):
    """A stand-in from words, and what the net wrote of it."""

    tokens: Tokens


class TextPart:
    """Everything that words need, for one bundle.

    Args:
        bundle: The generator whose people are drawn.
        folder: `text.veil`; by default the one beside the bundle, else the package's.

    Raises:
        ConfigError: There is none for this bundle.
        GraphError: A file is missing or was changed.
    """

    def __init__(self, bundle: Bundle, folder: Path | None = None) -> None:
        self.folder = folder or find_text(bundle)
        self.manifest = _checked_manifest(self.folder)
        made_for = self.manifest["bundle"]["fp32.onnx"]
        if made_for != bundle.manifest["files"]["fp32.onnx"]:
            raise ConfigError(
                f"{self.folder} was made for another generator than that of {bundle.path}; {_CURE}"
            )
        self.bundle = bundle
        self.vocabulary = Vocabulary(tuple(self.manifest["vocabulary"]))
        self._nouns = frozenset(self.manifest["nouns"])
        self._session = _session(_read(self.folder, "text.onnx", self.manifest))
        self._looks = Looks.load(_read(self.folder, "looks.npz", self.manifest))
        if self._looks.linear.shape[1] != len(bundle.mean) + 1:
            raise GraphError(f"{self.folder}: looks.npz is for another latent; {_CURE}")

    def read(self, prompt: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Word ids of a prompt, and the words that are not known.

        Raises:
            InputError: It says nothing, or not one word is known.
        """
        ids, unknown = self.vocabulary.encode(prompt)
        if ids.any() and not self._nouns & set(words_of(prompt)):  # captions have one
            ids, unknown = self.vocabulary.encode(f"{_NOUN} {prompt}")
        if not prompt.strip():
            raise InputError("the prompt is empty; say whom you want, as in 'an old man, smiling'")
        if unknown and not ids.any():
            raise InputError(
                f"the prompt has no word that is known, got {', '.join(unknown)[:200]};"
                " say age, sex, skin, hair, beard, glasses, pose or expression in English"
            )
        return ids, unknown

    def weak_looks(self, asked: dict[str, str]) -> tuple[str, ...]:
        """Looks that were asked for and that this generator hardly paints."""
        reach = self.manifest["reach"]
        return tuple(f"{name} {value}" for name, value in asked.items() if not reach[name][value])

    def weak_fields(self, tokens: Tokens) -> tuple[str, ...]:
        """Fields of pose and expression that words move far and that this generator hardly paints.

        What a field is called here is for people: both lids are `closed eyes`.
        """
        moves, calm = self.manifest["moves"], Tokens(levels=(None,) * NUM_TOKENS).values
        far = np.abs(tokens.values - calm) > [2 * field.step for field in HEAD_FIELDS]
        return tuple(
            dict.fromkeys(
                _CALLED.get(field.name, field.name.replace("_", " "))
                for field, is_far in zip(HEAD_FIELDS, far, strict=True)
                if is_far and moves.get(field.name, 1.0) < _SHOWN_SHARE
            )
        )

    def write(self, ids: np.ndarray, random: np.random.Generator) -> Tokens:
        """One draw of all tokens for the words of these ids."""
        inputs = self._session.get_inputs()
        words = np.zeros(inputs[0].shape, np.float32)
        known = np.flatnonzero(ids)
        words[0, known, ids[known]] = 1
        rows = np.zeros((1, NUM_TOKENS, MAX_SIZE), np.float32)
        levels: list[int | None] = []
        for place, unsaid in enumerate(UNSAID_CLASS):
            share = _softmax(self._odds(words, rows)[place, : unsaid + 1])
            if share[unsaid] > _UNSAID_SHARE:
                levels.append(None)
                rows[0, place, unsaid] = 1
                continue
            level = int(random.choice(unsaid, p=share[:unsaid] / share[:unsaid].sum()))
            levels.append(level)
            rows[0, place, level] = 1
        return Tokens(levels=tuple(levels))

    def draw(self, ids: np.ndarray, random: np.random.Generator) -> Person:
        """One person for the words of these ids."""
        tokens = self.write(ids, random)
        wanted = tokens.classes
        latent = self._looks.draw(self.bundle.mean, self.bundle.chol, wanted, random)
        skin = wanted.get("skin", self._looks.nearest_class("skin", latent))
        return Person(tokens=tokens, latent=latent, skin_class=skin)

    def _odds(self, words: np.ndarray, rows: np.ndarray) -> np.ndarray:
        try:
            (odds,) = self._session.run(["odds"], {"words": words, "tokens": rows})
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise GraphError(f"the text net failed ({type(error).__name__})") from error
        result: np.ndarray = odds[0]
        return result


def find_text(bundle: Bundle) -> Path:
    """`text.veil` beside the bundle, or the package's. Raises ConfigError where none is there."""
    for folder in (bundle.path.parent / TEXT_PART, default_bundle_path().parent / TEXT_PART):
        if (folder / "manifest.json").is_file():
            return folder
    raise ConfigError(f"no {TEXT_PART} beside {bundle.path}, wanted for prompts; {_CURE}")


def _checked_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        raw = path.read_bytes()
        manifest: dict[str, Any] = json.loads(raw)
    except (OSError, ValueError) as error:
        raise GraphError(f"{path} cannot be read ({type(error).__name__}); {_CURE}") from error
    if folder.resolve().parent == default_bundle_path().parent.resolve():
        pin = load_pins().get(TEXT_PART, {}).get("manifest.json")
        if pin != hashlib.sha256(raw).hexdigest():
            raise GraphError(f"{path} was changed: it does not match its pin; {_CURE}")
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise GraphError(f"{path}: no schema_version {SCHEMA_VERSION}; {_CURE}")
    if missing := {"vocabulary", "nouns", "files", "bundle", "reach", "moves"} - set(manifest):
        raise GraphError(f"{path} lacks {', '.join(sorted(missing))}; {_CURE}")
    return manifest


def _read(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise GraphError(f"{folder / name} cannot be read; {_CURE}") from error
    if hashlib.sha256(data).hexdigest() != manifest["files"].get(name):
        raise GraphError(f"{folder / name} was changed: another sha256 than listed; {_CURE}")
    return data


def _session(data: bytes) -> ort.InferenceSession:
    try:
        return open_graph(data, threads=1, execution_provider="CPUExecutionProvider")
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise GraphError(f"text.onnx cannot be loaded ({type(error).__name__}); {_CURE}") from error


def _softmax(odds: np.ndarray) -> np.ndarray:
    power = np.exp(odds.astype(np.float64) - odds.max())
    return np.asarray(power / power.sum())
