"""Captions from code tokens: templates and synonyms, as people would write a prompt.

A caption knows which tokens it speaks of, so that the text net learns to tell "not spoken of" from
every class. Pose and expression are mostly said where they are unusual; of the looks some are.
"""

import random

import numpy as np
from jaxtyping import Int64

from veilcam.camera.text_tokens import (
    LOOKS,
    NAMES,
    NUM_STATIC,
    SAID,
    UNSAID_CLASS,
    words_of,
)

_NOUNS = {  # (sex, age), where None is not said
    (None, None): ("person", "somebody", "human", "face", "portrait of a person"),
    ("female", None): ("woman", "lady", "female person", "female"),
    ("male", None): ("man", "guy", "gentleman", "male person", "male"),
    (None, "child"): ("child", "kid", "baby", "toddler", "young child"),
    (None, "young"): ("young person", "young adult", "youth"),
    (None, "middle"): ("middle aged person", "adult", "mature person"),
    (None, "old"): ("old person", "elderly person", "senior", "aged person", "pensioner"),
    ("female", "child"): ("girl", "little girl", "young girl", "female child"),
    ("male", "child"): ("boy", "little boy", "young boy", "male child"),
    ("female", "young"): ("young woman", "young lady", "young female"),
    ("male", "young"): ("young man", "young guy", "young male", "lad"),
    ("female", "middle"): ("middle aged woman", "mature woman", "middle aged lady"),
    ("male", "middle"): ("middle aged man", "mature man", "middle aged guy"),
    ("female", "old"): ("old woman", "elderly woman", "old lady", "grandmother", "elderly lady",
                        "senior woman", "granny", "grandma"),
    ("male", "old"): ("old man", "elderly man", "grandfather", "old gentleman", "elderly gentleman",
                      "senior man", "grandpa"),
}  # fmt: skip
_SKIN = {
    "dark": ("dark skin", "very dark skin", "dark skinned", "black skin", "deep skin tone"),
    "brown": ("brown skin", "tanned skin", "tan skin", "brown skinned"),
    "medium": ("medium skin tone", "olive skin", "medium skin"),
    "light": ("light skin", "pale skin", "fair skin", "white skin", "light skinned", "pale"),
}
_TONE = {
    "black": ("black",),
    "dark brown": ("dark brown", "dark", "brunette"),
    "brown": ("brown", "light brown", "chestnut", "brunette"),
    "blond": ("blond", "blonde", "golden", "fair"),
    "red": ("red", "ginger", "auburn"),
    "grey": ("grey", "gray", "silver"),
    "white": ("white",),
    "dyed": ("dyed", "colourful", "coloured", "colorful", "colored"),
}
_LENGTH = {
    "short": ("short", "cropped"),
    "medium": ("medium length", "shoulder length", "chin length"),
    "long": ("long", "very long"),
}
_BALD = ("bald", "bald head", "no hair", "without hair", "shaved head", "hairless", "balding")
_BEARD = {
    "yes": ("beard", "bearded", "moustache", "mustache", "goatee", "stubble", "full beard",
            "facial hair", "unshaven"),
    "no": ("no beard", "without a beard", "clean shaven", "shaven", "beardless",
           "no facial hair"),
}  # fmt: skip
_GLASSES = {
    "yes": ("glasses", "spectacles", "eyeglasses", "sunglasses", "wearing glasses"),
    "no": ("no glasses", "without glasses"),
}
_SAID_SHARE = {"sex": 0.75, "age": 0.5, "skin": 0.3, "hair_tone": 0.45, "hair_length": 0.4,
               "beard": 0.3, "glasses": 0.25}  # fmt: skip
_ALWAYS_RATHER = {("beard", "yes"): 0.75, ("glasses", "yes"): 0.75, ("hair_length", "bald"): 0.6}
_NOTABLE_SHARE = 0.8
NEUTRAL = ("calm", "neutral expression", "serious", "neutral face", "relaxed", "not smiling")
_EXPRESSIONS = {
    "yaw-": ("looking left", "turned left", "facing left", "head turned to the left",
             "looking to the left"),
    "yaw+": ("looking right", "turned right", "facing right", "head turned to the right",
             "looking to the right"),
    "yaw--": ("in profile facing left", "seen from the side facing left", "far left",
              "turned far to the left"),
    "yaw++": ("in profile facing right", "seen from the side facing right", "far right",
              "turned far to the right"),
    "pitch+": ("looking up", "head raised", "looking upwards", "chin up"),
    "pitch-": ("looking down", "head bowed", "looking downwards", "head down"),
    "open": ("mouth open", "open mouth", "speaking", "talking", "lips apart"),
    "open+": ("mouth wide open", "shouting", "screaming", "yawning", "singing"),
    "smile+": ("smiling", "happy", "cheerful", "a smile", "smiles", "friendly", "joyful"),
    "laugh": ("laughing", "grinning", "a big smile", "big grin", "smiling broadly", "laughs"),
    "smile-": ("sad", "unhappy", "frowning", "mouth corners down", "grumpy"),
    "shut": ("eyes closed", "closed eyes", "sleeping", "asleep", "eyes shut"),
    "wide": ("eyes wide open", "wide eyes", "staring"),
    "wink": ("winking", "one eye closed", "a wink"),
    "gaze_x-": ("glancing left", "eyes to the left", "gaze to the left"),
    "gaze_x+": ("glancing right", "eyes to the right", "gaze to the right"),
    "gaze_y+": ("eyes up", "glancing up", "gaze up"),
    "gaze_y-": ("eyes down", "glancing down", "gaze down", "eyes lowered"),
    "brow+": ("raised eyebrows", "raised brows", "eyebrows raised", "surprised", "astonished"),
    "brow-": ("lowered brows", "angry", "lowered eyebrows", "cross"),
}  # fmt: skip
_MOUTH, _LIDS = ("smile", "mouth_wide", "mouth_open"), ("eyelid_left", "eyelid_right")
_FIELDS = {  # what a phrase speaks of
    "yaw-": ("yaw",), "yaw+": ("yaw",), "yaw--": ("yaw",), "yaw++": ("yaw",),
    "pitch+": ("pitch",), "pitch-": ("pitch",), "open": ("mouth_open",),
    "open+": ("mouth_open",), "smile+": _MOUTH, "laugh": _MOUTH, "smile-": _MOUTH[:2],
    "shut": _LIDS, "wide": (*_LIDS, "brow"), "wink": _LIDS, "gaze_x-": ("gaze_x",),
    "gaze_x+": ("gaze_x",), "gaze_y+": ("gaze_y",), "gaze_y-": ("gaze_y",), "brow+": ("brow",),
    "brow-": ("brow",),
}  # fmt: skip
_FRONT = ("facing the camera", "looking straight", "looking ahead", "frontal", "from the front",
          "looking at the camera")  # fmt: skip
_MOUTH_SHUT = ("mouth closed", "closed mouth", "lips closed")
_EYES_OPEN = ("eyes open", "open eyes")


def notable(values: dict[str, float]) -> list[str]:
    """Keys of `_EXPRESSIONS` that a head with these code values would be described by.

    >>> notable({"yaw": -22.0, "smile": 0.1})
    ['yaw-', 'smile+']
    """
    get = values.get
    out = []
    yaw, pitch = get("yaw", 0.0), get("pitch", 0.0)
    if abs(yaw) > 13:
        out.append("yaw" + ("+" if yaw > 0 else "-") * (2 if abs(yaw) > 36 else 1))
    if abs(pitch) > 9:
        out.append("pitch+" if pitch > 0 else "pitch-")
    opened, smile = get("mouth_open", 0.0), get("smile", 0.05)
    wide = get("mouth_wide", 0.85)
    if smile > 0.095 and (opened > 0.11 or smile > 0.135):
        out.append("laugh")
    elif smile > 0.082 or (smile > 0.07 and wide > 0.95):
        out.append("smile+")
    elif smile < 0.006:
        out.append("smile-")
    if "laugh" not in out and opened > 0.1:
        out.append("open+" if opened > 0.24 else "open")
    lids = (get("eyelid_left", 0.13), get("eyelid_right", 0.13))
    if max(lids) < 0.05:
        out.append("shut")
    elif min(lids) < 0.05 and max(lids) > 0.08:
        out.append("wink")
    elif min(lids) > 0.15 and get("brow", 0.39) > 0.44:
        out.append("wide")
    if "shut" not in out:
        gaze_x, gaze_y = get("gaze_x", 0.0), get("gaze_y", 0.04)
        if abs(gaze_x) > 0.1:
            out.append("gaze_x+" if gaze_x > 0 else "gaze_x-")
        if not -0.02 < gaze_y < 0.13:
            out.append("gaze_y+" if gaze_y > 0.04 else "gaze_y-")
    brow = get("brow", 0.39)
    if not 0.34 < brow < 0.44:
        out.append("brow+" if brow > 0.44 else "brow-")
    return out


def values_of(tokens: Int64[np.ndarray, " t"]) -> dict[str, float]:
    """Code values, by name, of a row's dynamic tokens."""
    return {
        field.name: field.dequantize(int(level))
        for field, level in zip(SAID, tokens[NUM_STATIC:], strict=True)
    }


def looks_of(tokens: Int64[np.ndarray, " t"]) -> dict[str, str]:
    """Class names of a row's static tokens; those that are -1 are left out."""
    return {
        look.name: look.classes[int(token)]
        for look, token in zip(LOOKS, tokens[:NUM_STATIC], strict=True)
        if token >= 0
    }


def caption(tokens: Int64[np.ndarray, " t"], dice: random.Random) -> tuple[str, frozenset[str]]:
    """One way to describe a head, and the names of the tokens that it speaks of."""
    looks = looks_of(tokens)
    if looks.get("hair_length") == "bald":
        looks.pop("hair_tone", None)
    said = {
        name: look
        for name, look in looks.items()
        if dice.random() < _ALWAYS_RATHER.get((name, look), _SAID_SHARE[name])
    }
    noun = dice.choice(_NOUNS[(said.get("sex"), said.get("age"))])
    phrases = [dice.choice(words) for words in _parts(said, dice)]
    spoken = set(said)
    keys = notable(values_of(tokens))
    for key in keys:
        if dice.random() < _NOTABLE_SHARE:
            phrases.append(dice.choice(_EXPRESSIONS[key]))
            spoken.update(_FIELDS[key])
    for phrase, fields in _calm(keys, values_of(tokens), dice):
        phrases.append(phrase)
        spoken.update(fields)
    dice.shuffle(phrases)
    return _joined(noun, phrases, dice), frozenset(spoken)


def said_tokens(tokens: Int64[np.ndarray, " t"], said: frozenset[str]) -> Int64[np.ndarray, " t"]:
    """Tokens that a caption speaks of; the others say that it does not."""
    spoken = np.array([name in said for name in NAMES]) & (tokens >= 0)
    return np.where(spoken, tokens, UNSAID_CLASS)


def _parts(said: dict[str, str], dice: random.Random) -> list[tuple[str, ...]]:
    """Synonyms of each look that is said, but for sex and age, which are in the noun."""
    parts: list[tuple[str, ...]] = []
    if "skin" in said:
        parts.append(_SKIN[said["skin"]])
    length, tone = said.get("hair_length"), said.get("hair_tone")
    if length == "bald":
        parts.append(_BALD)
    elif length or tone:
        words = [dice.choice(_LENGTH[length])] if length else []
        words += [dice.choice(_TONE[tone])] if tone else []
        if len(words) == 2 and dice.random() < 0.4:
            words.reverse()
        parts.append((" ".join(words) + dice.choice((" hair", " hair", " haired")),))
    if "beard" in said:
        parts.append(_BEARD[said["beard"]])
    if "glasses" in said:
        parts.append(_GLASSES[said["glasses"]])
    return parts


def _calm(
    keys: list[str], values: dict[str, float], dice: random.Random
) -> list[tuple[str, tuple[str, ...]]]:
    """Now and then what is usual is said, too."""
    out: list[tuple[str, tuple[str, ...]]] = []
    if not keys and dice.random() < 0.25:
        out.append((dice.choice(NEUTRAL), _MOUTH))
    if abs(values["yaw"]) < 8 and abs(values["pitch"]) < 8 and dice.random() < 0.15:
        out.append((dice.choice(_FRONT), ("yaw", "pitch")))
    if values["mouth_open"] < 0.06 and dice.random() < 0.1:
        out.append((dice.choice(_MOUTH_SHUT), ("mouth_open",)))
    if min(values["eyelid_left"], values["eyelid_right"]) > 0.1 and dice.random() < 0.08:
        out.append((dice.choice(_EYES_OPEN), _LIDS))
    return out


def _joined(noun: str, phrases: list[str], dice: random.Random) -> str:
    """Noun and phrases in one of the usual orders."""
    style = dice.random()
    if style < 0.2:  # a list of words
        parts = [noun, *phrases]
        dice.shuffle(parts)
        return ", ".join(parts)
    before = [p for p in phrases if " " not in p or p.endswith(("haired", "skinned"))]
    before = before[:2] if style < 0.6 else []
    after = [p for p in phrases if p not in before]
    text = " ".join(["a", *before, noun])
    if after:
        text += dice.choice((" with ", ", ", " ")) + dice.choice((", ", " and ", " ")).join(after)
    return text


def nouns() -> tuple[str, ...]:
    """Words of which every caption has one."""
    phrases = [text for group in _NOUNS.values() for text in group]
    return tuple(sorted({words_of(text)[-1] for text in phrases}))


def every_word() -> tuple[str, ...]:
    """All words that captions are made of, sorted: the vocabulary."""
    texts: list[str] = ["a with and haired hair"]
    tables = (_NOUNS, _SKIN, _TONE, _LENGTH, _BEARD, _GLASSES, _EXPRESSIONS)
    for table in tables:
        texts += [text for group in table.values() for text in group]
    texts += [*_BALD, *NEUTRAL, *_FRONT, *_MOUTH_SHUT, *_EYES_OPEN]
    return tuple(sorted({word for text in texts for word in words_of(text)} - {"a", "the", "of"}))
