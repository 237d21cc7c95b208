"""What the layout code of `frame` mode is made of, at each strength, and what may be said of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.code import Field
from veilcam.camera.strength import CHOICES, Strength

NUM_TOKENS = 8
# Levels of a cell's mean colour in YCrCb: even in lightness, and in chroma about as much of public
# scenes in each level. `MIDDLES` are what a level stands for.
CHANNELS = ("lightness", "chroma_red", "chroma_blue")
THRESHOLDS = (tuple(float(v) for v in range(32, 256, 32)), (122.0, 128.0, 134.0),
              (117.0, 127.0, 135.0))  # fmt: skip
MIDDLES = (tuple(float(v) for v in range(16, 256, 32)), (116.0, 125.0, 131.0, 142.0),
           (108.0, 122.0, 131.0, 143.0))  # fmt: skip
NUM_LEVELS = tuple(len(middles) for middles in MIDDLES)
CELL_BITS = sum(int(math.log2(count)) for count in NUM_LEVELS)

TOKEN_FIELDS = (
    Field(name="is_there", low=0.0, high=1.0, bits=1),
    Field(name="x", low=-0.25, high=1.25, bits=6),  # middle of the body, of the frame's width
    Field(name="top", low=-0.25, high=1.0, bits=6),  # of the frame's height
    Field(name="height", low=math.log(0.06), high=math.log(4.0), bits=5),  # log, frame heights
    Field(name="width", low=math.log(0.2), high=math.log(1.2), bits=2),  # log, of the height
    Field(name="facing", low=-180.0, high=180.0, bits=3),
)
TOKEN_BITS = sum(field.bits for field in TOKEN_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutPlan:
    """What one strength sends.

    Attributes:
        grid_hw: Cells down and across the frame.
        epsilon: Of the randomized response of each of `CHANNELS`, for one cell.
    """

    grid_hw: tuple[int, int]
    epsilon: tuple[float, float, float]

    @property
    def num_cells(self) -> int:
        """Cells of a frame."""
        return self.grid_hw[0] * self.grid_hw[1]

    @property
    def cell_epsilon(self) -> float:
        """Of all channels of one cell together (basic composition)."""
        return sum(self.epsilon)

    @property
    def frame_epsilon(self) -> float:
        """Of all cells of a frame together (basic composition)."""
        return self.num_cells * self.cell_epsilon

    @property
    def bits_per_frame(self) -> int:
        """Cells and tokens."""
        return self.num_cells * CELL_BITS + NUM_TOKENS * TOKEN_BITS


_PLANS = {
    Strength.STRICT: LayoutPlan(grid_hw=(5, 8), epsilon=(1.5, 0.75, 0.75)),
    Strength.BALANCED: LayoutPlan(grid_hw=(9, 16), epsilon=(3.0, 1.5, 1.5)),
    Strength.FAITHFUL: LayoutPlan(grid_hw=(14, 24), epsilon=(5.0, 2.5, 2.5)),
}


def layout_plan(strength: Strength) -> LayoutPlan:
    """What a strength sends; what is no strength to run at is as `STRICT`."""
    return _PLANS.get(strength, _PLANS[Strength.STRICT])


def truth_probability(num_levels: int, epsilon: float) -> float:
    """How often k-ary randomized response says the true level.

    >>> round(truth_probability(8, 3.0), 3)
    0.742

    Source: Kairouz, Bonawitz, Ramage 2016, Discrete distribution estimation, section 2.
    """
    return math.exp(epsilon) / (math.exp(epsilon) + num_levels - 1)


def quantize_colours(ycrcb: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Level of each channel of each cell."""
    levels = [
        np.searchsorted(THRESHOLDS[c], ycrcb[..., c], side="right") for c in range(len(CHANNELS))
    ]
    return np.stack(levels, axis=-1).astype(np.uint8)


MANIFEST_FIELDS = tuple(
    Field(name=f"cells_{name}", low=0.0, high=255.0,
          bits=_PLANS[Strength.FAITHFUL].num_cells * int(math.log2(count)))
    for name, count in zip(CHANNELS, NUM_LEVELS, strict=True)
) + tuple(
    Field(name=f"persons_{f.name}", low=f.low, high=f.high, bits=NUM_TOKENS * f.bits)
    for f in TOKEN_FIELDS
)  # fmt: skip

UNIT = "the level of one cell, all three channels, for as long as a run lasts"
CLAIMS = {
    "mechanism": "k-ary randomized response for each channel of each cell; answers are drawn once "
    "for each cell and level and kept for the run (permanent randomized response)",
    "relation": "two pictures whose code differs in one cell (replace one)",
    "one_frame": "epsilon per cell; epsilon per frame where all cells differ",
    "many_frames": "while a cell's level stays, all frames together cost epsilon per cell once; a "
    "cell that takes m levels costs m times as much",
    "runs": "each run draws anew: n of them cost n times as much; a capture process that is "
    "started again within a run, and a strength that is chosen again, give the same answers",
    "not_protected": "when a cell's level changes (frames with equal levels have equal answers); "
    "tokens of persons: place, size and facing are quantized, not noised",
    "assumes": "noise of the operating system's generator is secret, and SHAKE256 of a key drawn "
    "from it looks random",
}


def statement() -> dict[str, Any]:
    """The local-DP statement of all strengths, as `explain` prints it and the manifest has it."""
    return {"unit": UNIT, **CLAIMS, "strengths": {s.value: describe(s) for s in CHOICES}}


def describe(strength: Strength, *, fps: int = 30) -> dict[str, Any]:
    """Cells, bits and epsilon of one strength."""
    plan = layout_plan(strength)
    return {
        "cells": list(plan.grid_hw),
        "bits_per_cell": CELL_BITS,
        "persons": NUM_TOKENS,
        "bits_per_person": TOKEN_BITS,
        "bits_per_frame": plan.bits_per_frame,
        "bits_per_second": plan.bits_per_frame * fps,
        "epsilon": dict(zip(CHANNELS, plan.epsilon, strict=True)),
        "truth_probability": {
            name: truth_probability(count, epsilon)
            for name, count, epsilon in zip(CHANNELS, NUM_LEVELS, plan.epsilon, strict=True)
        },
        "epsilon_per_cell": plan.cell_epsilon,
        "epsilon_per_frame": plan.frame_epsilon,
        "delta": 0.0,
    }


def as_text(value: dict[str, Any]) -> list[str]:
    """Lines of a statement, for people."""
    names = list(value["strengths"])
    rows = {"cells": lambda v: "x".join(str(n) for n in v["cells"][::-1])} | {
        key: (lambda v, key=key: f"{v[key]:g}")
        for key in (
            "bits_per_cell", "persons", "bits_per_person", "bits_per_frame", "bits_per_second",
            "epsilon_per_cell", "epsilon_per_frame",
        )
    }  # fmt: skip
    lines = ["The code of a frame in mode frame (local differential privacy, delta 0):"]
    lines.append(" " * 23 + "".join(f"{name:>10}" for name in names))
    for key, show in rows.items():
        sums = "".join(f"{show(value['strengths'][name]):>10}" for name in names)
        lines.append(f"{key.replace('_', ' '):23}{sums}")
    said = ("unit", *CLAIMS)
    return lines + [f"  {key.replace('_', ' ')}: {value[key]}" for key in said]
