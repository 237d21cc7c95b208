"""`veilcam audit`: what leaks from a bundle, measured, with controls that must fire."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilcam.camera.audit_attacks import raw_limits
from veilcam.camera.audit_clip import clip_rows, judge_clip
from veilcam.camera.audit_faces import FaceFinder
from veilcam.camera.audit_members import membership_of_bundle
from veilcam.camera.audit_people import Picture, draw_people, read_people, split_people
from veilcam.camera.audit_protect import FaceProtection
from veilcam.camera.audit_recognizers import (
    find_model,
    load_attributes,
    load_features,
    load_recognizers,
    model_folders,
)
from veilcam.camera.audit_rows import identity_findings
from veilcam.camera.audit_scene import SceneProtection
from veilcam.camera.audit_shots import Instruments, Shot, load_mesh, measure
from veilcam.camera.audit_state import AuditState
from veilcam.camera.audit_traits import trait_rows
from veilcam.camera.audit_use import utility_rows, variety_row
from veilcam.camera.audit_verdict import check_controls, control, judge
from veilcam.camera.capture import load_builder
from veilcam.camera.errors import ConfigError, InputError
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import Bundle, load_bundle
from veilcam.camera.source import demo_clip
from veilcam.camera.strength import DEFAULT, choose

_log = logging.getLogger(__name__)
_TICK_S = 10.0
_MIN_PEOPLE = 20
_MIN_SHOWN = 0.5  # who is not shown cannot leak: a product that shows nobody would always pass
_CLIP_SCORE = 0.7  # below that hands in front of a camera pass for faces


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """What to measure, and on whom.

    Attributes:
        bundle: Folder NAME.veil; None is the package's own.
        people: Pictures of the people under attack; None draws people who do not exist.
        learn_on: Pictures of the people on whom attackers learn; None takes some of `people`, who
            are not attacked then.
        strength: At which the product runs.
        clip: Clip for leaks and flicker over time; None is the package's demo.
        models: Folder with recognizers.
        public: Pictures that may be shown in the report.
        members, non_members: Training pictures and like ones that were not trained on.
        cache: Folder for arrays of public pictures.
        state: Folder that keeps the numbers of pictures until the audit is through, so that one
            that is interrupted goes on; face vectors and coarse pictures of the people under
            attack, which are personal data.
        is_quick: Fewer people and frames.
    """

    bundle: Path | None = None
    people: Path | None = None
    learn_on: Path | None = None
    strength: str = DEFAULT.value
    clip: Path | None = None
    models: Path | None = None
    public: Path | None = None
    members: Path | None = None
    non_members: Path | None = None
    cache: Path | None = None
    state: Path | None = None
    is_quick: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """People attacked, people that attackers learn on, frames of the clip."""
        return (70, 230, 45) if self.is_quick else (420, 900, 200)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The JSON, and what only the report needs."""

    value: dict[str, Any]
    curves: dict[tuple[str, str], Any]
    tools: Instruments
    shown: tuple[Picture, ...]


def run_audit(options: AuditOptions) -> AuditResult:
    """Measure everything; `value` is what `veilcam audit --json` prints.

    Raises:
        VeilcamError: Bundle, people, clip or models cannot be used.
    """
    start_s = time.monotonic()
    choose(options.strength)
    bundle = load_bundle(options.bundle, mode=None)
    is_scene = _is_scene(bundle)
    heads = load_bundle(None) if is_scene else bundle  # who draws people who may be shown
    generator = Generator(heads)
    folders = model_folders(options.models, options.people)
    tools = _load_tools(bundle, heads, generator, folders)
    if options.state is not None and options.people is None:
        raise ConfigError("--state needs --people: people that are drawn are others each time")
    state = AuditState(options.state, _what(options, bundle)) if options.state else None
    attacked, others, source = _measure_people(options, heads, generator, tools, state)
    names = tuple(r.name for r in tools.recognizers)
    findings = identity_findings(attacked, others, names, _log.info)
    attacks = findings.rows + trait_rows(attacked, others)
    utility = utility_rows(attacked)
    for name in names:
        if told := variety_row(attacked, name, raw_limits(attacked, name)["1e-3"]):
            utility.append(told)
    clip_attacks, clip_use = _measure_clip(options, bundle, tools, attacked)
    attacks, utility = attacks + clip_attacks, utility + clip_use
    if is_scene:
        findings.skipped.append(
            "membership_nearest_sample: the actors' generator was trained on simulated people only"
        )
    elif members := membership_of_bundle(options, bundle, generator, tools, findings.skipped):
        attacks.append(members)
    controls = check_controls(attacks, len(tools.recognizers))
    shown = sum(s.code is not None for s in attacked) / len(attacked)
    controls.append(control("people shown at all", shown, f">= {_MIN_SHOWN}", shown >= _MIN_SHOWN))
    verdict, reasons = judge(attacks, controls)
    value = {
        "claims": claims_of(bundle),
        "attacks": attacks,
        "utility": utility,
        "verdict": verdict,
        "reasons": reasons,
        "controls": controls,
        "skipped": findings.skipped,
        "people": source,
        "mode": bundle.manifest["mode"],
        "strength": options.strength,
        "bundle_sha256": bundle.sha256,
        "is_quick": options.is_quick,
        "seconds": round(time.monotonic() - start_s, 1),
    }
    if state is not None:
        state.remove()
    return AuditResult(value, findings.curves, tools, _shown(options, heads, generator))


def claims_of(bundle: Bundle) -> dict[str, Any]:
    """What the bundle promises; the audit neither makes nor widens a promise."""
    code = bundle.manifest["code"]
    static = [f["name"] for f in code["fields"] if f["kind"] == "static"]
    return {
        "training": bundle.manifest["training"],
        "inference": {
            "bits_per_frame": code["bits_per_frame"],
            "static_fields": static,
            "placed": "box, size, roll and skin colour, quantized, in the clear",
        },
        "data": [d.get("name") for d in bundle.manifest["data"]],
    }


def _what(options: AuditOptions, bundle: Bundle) -> dict[str, Any]:
    """What numbers of pictures depend on."""
    folders = {name: str(getattr(options, name)) for name in ("people", "learn_on", "models")}
    sizes = list(options.sizes)
    return {"bundle": bundle.sha256, "strength": options.strength, "sizes": sizes, **folders}


def _is_scene(bundle: Bundle) -> bool:
    mode = bundle.manifest["mode"]
    if mode not in ("face", "scene"):
        raise ConfigError(f"a bundle of mode {mode!r} cannot be audited yet; wanted face or scene")
    return bool(mode == "scene")


def _load_tools(
    bundle: Bundle, heads: Bundle, generator: Generator, folders: list[Path]
) -> Instruments:
    """What looks at pictures; `heads` and its `generator` paint heads in either mode."""
    protection = (
        FaceProtection(heads, generator) if bundle is heads
        else SceneProtection(bundle, Generator(bundle), heads, generator)
    )  # fmt: skip
    has_faceres = find_model("faceres.onnx", folders) is not None
    return Instruments(
        protection=protection,
        finder=FaceFinder(),
        recognizers=load_recognizers(folders),
        mesh=load_mesh(),
        guess=load_attributes(folders) if has_faceres else None,
        features=load_features(folders),
    )


def _measure_people(
    options: AuditOptions,
    bundle: Bundle,
    generator: Generator,
    tools: Instruments,
    state: AuditState | None,
) -> tuple[list[Shot], list[Shot], dict[str, Any]]:
    num_attacked, num_others, _ = options.sizes
    if options.people is not None:
        pictures = read_people(options.people)
    else:
        _log.info("no --people: attacking people that the bundle itself draws, who do not exist")
        num_attacked, num_others = num_attacked // 2, num_others // 2
        pictures = draw_people(
            bundle, generator, num_people=num_attacked + num_others, num_pictures=1
        )
    learn_on = read_people(options.learn_on) if options.learn_on is not None else None
    split = split_people(
        pictures, num_attacked=num_attacked, num_others=num_others, learn_on=learn_on
    )
    total = len(split.attacked) + len(split.others)
    tick = _ticker(total)
    others = measure(split.others, tools, is_learning=True, tick=tick, state=state)
    attacked = measure(split.attacked, tools, is_learning=False, tick=tick, state=state)
    people = {s.person for s in attacked}
    if len(people) < _MIN_PEOPLE:
        raise InputError(
            f"got {len(people)} people with a face that can be found, wanted {_MIN_PEOPLE};"
            " give --people a folder with more"
        )
    source = {
        "are_drawn_by_the_bundle": options.people is None,
        "attacked": len(people),
        "pictures_attacked": len(attacked),
        "learned_on": len(others),
        "pictures_without_a_found_face": total - len(attacked) - len(others),
        "heads_missed_by_the_product": sum(s.code is None for s in attacked + others),
    }
    return attacked, others, source


def _measure_clip(
    options: AuditOptions, bundle: Bundle, tools: Instruments, attacked: list[Shot]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    path = options.clip or demo_clip()
    limits = {r.name: raw_limits(attacked, r.name)["1e-3"] for r in tools.recognizers}
    _log.info("judging the clip")
    numbers = judge_clip(
        path, build=load_builder(bundle.manifest["mode"]), bundle=options.bundle,
        finder=FaceFinder(min_score=_CLIP_SCORE), recognizers=tools.recognizers, limits=limits,
        max_frames=options.sizes[2],
    )  # fmt: skip
    return clip_rows(numbers)


def _ticker(total: int) -> Any:
    """Says how far the pass over the pictures is, every ten seconds."""
    start_s = last_s = time.monotonic()
    done = 0

    def tick() -> None:
        nonlocal done, last_s
        done += 1
        now_s = time.monotonic()
        if now_s - last_s >= _TICK_S or done == total:
            last_s = now_s
            left_s = (now_s - start_s) / done * (total - done)
            _log.info("pictures: %d of %d, about %.0f s left", done, total, left_s)

    return tick


def _shown(
    options: AuditOptions, bundle: Bundle, generator: Generator, num: int = 8
) -> tuple[Picture, ...]:
    """People whose pictures may be in the report: public ones, or people drawn by the bundle."""
    if options.public is not None:
        pictures = [p for p in read_people(options.public) if p.number == 0]
        return tuple(pictures[:: max(len(pictures) // num, 1)][:num])
    return draw_people(bundle, generator, num_people=num, num_pictures=1)
