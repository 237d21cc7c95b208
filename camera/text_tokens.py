"""Words and code tokens: what a prompt may say, and the tokens that a text model writes.

Tokens come in the order of `FIELDS`: first what stays the same about a person, then pose and
expression as levels of the code itself, so that words and camera write the same code.
"""

import re
from dataclasses import dataclass

import numpy as np

from veilcam.camera.code import HEAD_FIELDS

# Numbers measured on a head; classes are cut from them. Units: L*a*b*, log-odds, years, share.
COLUMNS = (
    "skin",
    "hair_l",
    "hair_a",
    "hair_b",
    "hair_gap",
    "hair_length",
    "sex",
    "age",
    "beard",
    "glasses",
)


@dataclass(frozen=True, slots=True)
class Look:
    """One static token.

    Attributes:
        name: What it tells.
        classes: Its values, in the order of the token.
        columns: The measured numbers by which a class is known.
    """

    name: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]


LOOKS = (
    Look("sex", ("female", "male"), ("sex",)),
    Look("age", ("child", "young", "middle", "old"), ("age",)),
    Look("skin", ("dark", "brown", "medium", "light"), ("skin",)),
    Look(
        "hair_tone",
        ("black", "dark brown", "brown", "blond", "red", "grey", "white", "dyed"),
        ("hair_l", "hair_a", "hair_b"),
    ),
    Look("hair_length", ("bald", "short", "medium", "long"), ("hair_length", "hair_gap")),
    Look("beard", ("no", "yes"), ("beard",)),
    Look("glasses", ("no", "yes"), ("glasses",)),
)
SAID = tuple(field for field in HEAD_FIELDS if not field.name.startswith("light"))
# One class more than a token has says that the words do not speak of it; it comes last.
UNSAID_CLASS = tuple(len(look.classes) for look in LOOKS) + tuple(2**f.bits for f in SAID)
SIZES = tuple(size + 1 for size in UNSAID_CLASS)
NAMES = tuple(look.name for look in LOOKS) + tuple(field.name for field in SAID)
NUM_STATIC, NUM_TOKENS, MAX_SIZE = len(LOOKS), len(SIZES), max(SIZES)
STATIC_BITS = float(sum(np.log2(len(look.classes)) for look in LOOKS))
MAX_WORDS = 24
PAD, UNKNOWN = 0, 1  # first ids of a vocabulary
_WORD = re.compile(r"[a-z]+")
# Words that carry no look: not worth a warning, and not shown to the model.
_FILLERS = """a an the of and with who that is are has have having in on at to his her their its it
this very quite rather really some somebody someone person human being portrait picture photo
photograph image face head hair skin eyes eye mouth looks showing wearing wears please make me
show like"""
FILLERS = frozenset(_FILLERS.split())


def words_of(text: str) -> list[str]:
    """Lower-case words of a prompt; hyphens part words, apostrophes vanish.

    >>> words_of("An OLD man, grey-haired; isn't smiling")
    ['an', 'old', 'man', 'grey', 'haired', 'isnt', 'smiling']
    """
    return _WORD.findall(text.lower().replace("'", "").replace("\u2019", ""))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words a text model knows.

    Attributes:
        words: In the order of their ids, from 2 on.
    """

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of ids, with padding and unknown."""
        return len(self.words) + 2

    def encode(self, text: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Ids (MAX_WORDS,) int32, padded with 0, and the words that are not known, once each.

        Unknown words are left out, as are words beyond MAX_WORDS, which count as unknown too.
        """
        ids: list[int] = []
        unknown: dict[str, None] = {}
        index = {word: number + 2 for number, word in enumerate(self.words)}
        for word in words_of(text):
            if word in index and len(ids) < MAX_WORDS:
                ids.append(index[word])
            elif word not in FILLERS or word in index:
                unknown[word] = None
        out = np.full(MAX_WORDS, PAD, np.int32)
        out[: len(ids)] = ids
        return out, tuple(unknown)
