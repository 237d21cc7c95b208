"""`veilcam explain`: what the code carries at each strength, in bits and epsilon."""

import math
from typing import Any

from veilcam.camera import layout_plan
from veilcam.camera.code import (
    HEAD_FIELDS,
    POSITION_STEP_PX,
    ROLL_STEP_DEG,
    SIZE_STEP_PX,
    Field,
    levels_of,
)
from veilcam.camera.explain_scene import explain_scene, scene_lines
from veilcam.camera.light import LIGHT_LEVELS, SKIN_CLASSES
from veilcam.camera.strength import CHOICES, DEFAULT, Plan, Strength, plan_of

FPS = 30
SIZE_HW = (720, 1280)
_CARRIES = {
    "yaw": "head turned to the left or right",
    "pitch": "head bowed or raised",
    "mouth_open": "how far the lips are apart",
    "mouth_wide": "how far the corners of the mouth are apart",
    "smile": "how high the corners of the mouth are",
    "eyelid_left": "how far the eye on the left is open",
    "eyelid_right": "how far the eye on the right is open",
    "gaze_x": "eyes turned to the left or right",
    "gaze_y": "eyes turned up or down",
    "brow": "how high the brows are",
    "light_x": "light from the left or right",
    "light_y": "light from above or below",
}
NOT_COUNTED = {
    "region": "outline of what is hidden; its edge can be seen where the stand-in is smaller",
    "rest of the picture": "in face mode all pixels outside of hidden regions leave as they are",
    "number and times": "how many heads there are, and when each appears and goes",
}
WITH_PROMPT = (
    "skin class and looks come from the words and from noise: 0 bits and epsilon 0 of the person;"
    " who appeared first, second, ... decides who gets which words of a cast"
)


def explain() -> dict[str, Any]:
    """What `veilcam explain --json` prints.

    Bits are upper bounds: the width of what is sent, not how much of it a person's face fills.
    """
    strengths = {strength.value: explain_at(strength) for strength in CHOICES}
    head_bits = {name: value["bits_per_frame"] for name, value in strengths.items()}
    return {
        "default": DEFAULT.value,
        "fps": FPS,
        "width": SIZE_HW[1],
        "height": SIZE_HW[0],
        "strengths": strengths,
        "frame_mode": layout_plan.statement(),
        "with_prompt": WITH_PROMPT,
        "not_counted": NOT_COUNTED,
        "scene": explain_scene(FPS, SIZE_HW, head_bits),
    }


def explain_at(strength: Strength) -> dict[str, Any]:
    """One strength: its fields, and their sums for each head."""
    plan = plan_of(strength)
    fields = [
        *(_head_field(field, plan) for field in HEAD_FIELDS),
        *_place_fields(),
        _field(
            "skin_light", "light on the skin since the track's first frame", LIGHT_LEVELS * 2 + 1
        ),
        _skin_class(plan),
        {
            "name": "looks",
            "carries": "face and hair of the stand-in: secret noise, drawn after the skin class",
            "kind": "static",
            "bits": 0,
            "levels": None,
            "epsilon": 0.0,
            "rest": "",
        },
    ]
    per_frame = sum(f["bits"] for f in fields if f["kind"] == "dynamic")
    return {
        "fields": fields,
        "bits_per_frame": per_frame,
        "bits_per_second": per_frame * FPS,
        "bits_per_track": sum(f["bits"] for f in fields if f["kind"] == "static"),
        "epsilon_per_track": plan.skin_epsilon,
        "settle_frames": plan.settle_frames,
    }


def _head_field(field: Field, plan: Plan) -> dict[str, Any]:
    value = _field(field.name, _CARRIES[field.name], len(levels_of(field, plan)))
    value["rest"] = _rest_of(field, plan)
    return value


def _rest_of(field: Field, plan: Plan) -> str:
    """What becomes of a person's own resting value."""
    if len(levels_of(field, plan)) == 1:
        return "removed"  # nothing is sent
    if field.name.startswith("light") or field.name == "yaw":
        return "sent"
    if not plan.has_own_rest:
        return "sent" if field.name in ("pitch", "mouth_open") else "fades in seconds"
    if field.name.startswith("eyelid"):
        return "removed"
    reach = plan.reach[field.name]
    return "removed" if reach >= field.high - field.low else f"removed up to {reach:g}"


def _place_fields() -> list[dict[str, Any]]:
    height, width = SIZE_HW
    return [
        _field("center_x", "where the head is", math.floor(width / POSITION_STEP_PX) + 1),
        _field("center_y", "where the head is", math.floor(height / POSITION_STEP_PX) + 1),
        _field("size", "how large the head is", math.floor(width / SIZE_STEP_PX)),
        _field("roll", "head tilted to a shoulder", math.floor(360 / ROLL_STEP_DEG)),
    ]


def _skin_class(plan: Plan) -> dict[str, Any]:
    value = _field("skin_class", "tone of skin, randomized response, once a track",
                   len(SKIN_CLASSES))  # fmt: skip
    value |= {"kind": "static", "epsilon": plan.skin_epsilon}
    if plan.skin_epsilon == 0:
        value |= {"bits": 0, "carries": "tone of skin, at random, once a track"}
    return value


def _field(name: str, carries: str, num_levels: int) -> dict[str, Any]:
    return {
        "name": name,
        "carries": carries,
        "kind": "dynamic",
        "bits": math.ceil(math.log2(num_levels)),
        "levels": num_levels,
        "epsilon": None,
        "rest": "",
    }


def format_text(value: dict[str, Any]) -> str:
    """For people: bits of each field at each strength, then the sums."""
    names = list(value["strengths"])
    head = "".join(f"{name:>10}" for name in names)
    lines = [
        f"The code of one head, bits; at {value['width']}x{value['height']}, {value['fps']} frames"
        f" a second; `run` takes {value['default']}",
        f"{'field':14}{'kind':9}{head}  carries",
    ]
    columns = [value["strengths"][name]["fields"] for name in names]
    for row in zip(*columns, strict=True):
        bits = "".join(f"{field['bits']:>10}" for field in row)
        lines.append(f"{row[0]['name']:14}{row[0]['kind']:9}{bits}  {row[-1]['carries']}")
    for key in ("bits_per_frame", "bits_per_second", "bits_per_track", "epsilon_per_track"):
        sums = "".join(f"{value['strengths'][name][key]:>10g}" for name in names)
        lines.append(f"{key.replace('_', ' '):23}{sums}")
    lines.append("A person's own resting value (brows, mouth, lids, gaze, pitch):")
    for name in names:
        fields = value["strengths"][name]["fields"]
        lines.append(f"  {name}: " + "; ".join(
            f"{f['name']} {f['rest']}" for f in fields if f["rest"] and f["rest"] != "sent"
        ))  # fmt: skip
    lines += layout_plan.as_text(value["frame_mode"])
    lines.append(f"With --prompt or --cast: {value['with_prompt']}.")
    lines += scene_lines(value["scene"])
    lines.append("Not counted:")
    lines += [f"  {name}: {what}" for name, what in value["not_counted"].items()]
    return "\n".join(lines)
