"""What the code of `scene` mode carries at each strength, for `veilcam explain`."""

import math
from typing import Any

from veilcam.camera.actor_code import DYNAMIC_FIELDS
from veilcam.camera.actor_looks import CLASSES, PARTS, actor_plan
from veilcam.camera.plate_privacy import PlateConfig
from veilcam.camera.scene_light import BITS_PER_S
from veilcam.camera.strength import CHOICES, Strength

_PLACES = ("left", "top", "height")


def explain_scene(fps: int, size_hw: tuple[int, int], head_bits: dict[str, int]) -> dict[str, Any]:
    """Bits and epsilon of one actor at each strength, and what the background tells.

    Args:
        fps: Frames a second.
        size_hw: Of the picture.
        head_bits: Bits a frame of a head's code at each strength.
    """
    return {
        "strengths": {s.value: _at(s, fps, size_hw) for s in CHOICES},
        "light_bits_per_second": round(BITS_PER_S, 1),
        "head_bits_per_frame": {s.value: head_bits[s.value] for s in CHOICES},
        "plate_setup": "median of nine still moments; no epsilon",
        "plate_refresh": PlateConfig().claim(),
    }


def _at(strength: Strength, fps: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    plan = actor_plan(strength)
    points = sum(plan.point_bits for field in DYNAMIC_FIELDS if field.bits > 3)
    others = sum(field.bits for field in DYNAMIC_FIELDS if field.bits <= 3)
    step = plan.place_step_px * size_hw[0] / 720
    place = 3 * math.ceil(math.log2(max(size_hw) / step + 1))
    per_frame = points + others + place
    static = [
        {
            "name": part,
            "bits": math.ceil(math.log2(len(CLASSES[part]))) if epsilon else 0,
            "epsilon": epsilon,
        }
        for part, epsilon in zip(PARTS, plan.epsilon, strict=True)
    ]
    return {
        "key_points_bits": points,
        "seen_and_facing_bits": others,
        "place_bits": place,
        "bits_per_frame": per_frame,
        "bits_per_second": per_frame * fps,
        "static": static,
        "bits_per_track": sum(field["bits"] for field in static),
        "epsilon_per_track": plan.track_epsilon,
    }


def scene_lines(value: dict[str, Any]) -> list[str]:
    """For people."""
    names = list(value["strengths"])
    lines = ["Mode scene, the code of one actor:" + "".join(f"{name:>12}" for name in names)]
    for key in ("key_points_bits", "seen_and_facing_bits", "place_bits", "bits_per_frame",
                "bits_per_second", "bits_per_track", "epsilon_per_track"):  # fmt: skip
        sums = "".join(f"{value['strengths'][name][key]:>12g}" for name in names)
        lines.append(f"  {key.replace('_', ' '):32}{sums}")
    heads = "".join(f"{value['head_bits_per_frame'][name]:>12g}" for name in names)
    lines.append(f"  {'its head, where it is near':32}{heads}  bits a frame")
    claim = value["plate_refresh"]
    lines.append(f"  light of the room: at most {value['light_bits_per_second']} bits a second")
    lines.append(f"  background, first picture: {value['plate_setup']}")
    lines.append(
        f"  background, refreshes: epsilon {claim['epsilon']:.2f}, delta {claim['delta']:g}"
        f" for each {claim['unit']}"
    )
    lines.append("  poses tell build and gait of a person; no strength takes them away")
    return lines
