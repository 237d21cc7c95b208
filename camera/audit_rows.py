"""Rows of identity attacks: every attack on every protection, with its controls beside it."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veilcam.camera.audit_attacks import (
    CODE,
    PLANTED_CODE,
    Trial,
    build_trial,
    chance_of,
    linkage_auc,
    raw_limits,
    reid_figures,
)
from veilcam.camera.audit_learn import (
    Learned,
    Target,
    blocks_of,
    learn_code,
    learn_linear,
    learn_net,
    seen_of,
)
from veilcam.camera.audit_protect import PEERS
from veilcam.camera.audit_shots import COPY, LEARN_VIEWS, ORIGINAL, OURS, PLANTED, Shot
from veilcam.camera.audit_stats import Estimate, binomial_tail, roc

GALLERIES = ("same", "other")
MIN_PROBES = 20
_DECIDING = ("rank1", "tpr_at_far_1e-3")
_ATTACKS_LEARNED = ("deanonymize_picture", "retrained_net")


@dataclass(slots=True)
class Findings:
    """What the attacks gave.

    Attributes:
        rows: For `audit --json`.
        curves: (label, recognizer) -> FAR, TPR; for the report.
        skipped: What was not done, and why.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def identity_findings(
    attacked: list[Shot], others: list[Shot], recognizers: tuple[str, ...],
    say: Callable[[str], None],
) -> Findings:  # fmt: skip
    """Every identity attack with every recognizer."""
    findings = Findings()
    train = _load_training(findings)
    for recognizer in recognizers:
        limits = raw_limits(attacked, recognizer)
        learned = _learn(others, recognizer, train, findings, say)
        for gallery in GALLERIES:
            size = sum(s.number == (0 if gallery == "same" else 1) for s in attacked)
            if size < MIN_PROBES:
                findings.skipped.append(f"{recognizer}, gallery {gallery}: {size} probes only")
                continue
            _off_the_shelf_into(findings, attacked, recognizer, gallery, limits)
            _learned_into(findings, attacked, recognizer, gallery, learned)
            _code_into(findings, attacked, recognizer, gallery, learned)
        _linkage_into(findings, attacked, recognizer)
    return findings


def _load_training(findings: Findings) -> Any:
    """The training attacker, where JAX is there; looked up by name, `camera` never imports it."""
    if all(importlib.util.find_spec(name) for name in ("jax", "optax")):
        try:
            return importlib.import_module("veilcam.model.attack")
        except ImportError as error:
            findings.skipped.append(f"retrained_net: {type(error).__name__} on import")
            return None
    findings.skipped.append("retrained_net: needs jax and optax, run ./scripts/setup train")
    return None


def _learn(
    others: list[Shot], recognizer: str, train: Any, findings: Findings, say: Callable[[str], None]
) -> dict[tuple[str, str], Learned]:
    """Attackers by (attack, view), taught on other people's protected pictures."""
    if len(others) < MIN_PROBES:
        findings.skipped.append(f"{recognizer}: attackers have {len(others)} people to learn on")
        return {}
    known = np.stack([s.vectors[ORIGINAL, recognizer] for s in others])
    learned, target = {}, Target.of(known)
    for view in LEARN_VIEWS[1:]:
        seen = seen_of(others, view, recognizer)
        blocks = blocks_of(known.shape[1], seen.shape[1])
        learned["deanonymize_picture", view] = linear = learn_linear(seen, known, blocks, target)
        if train is not None:
            say(f"training the attacker of {recognizer} on {view}")
            learned["retrained_net", view] = learn_net(
                train.train_attacker, seen, known, blocks, linear
            )
    for view in (CODE, PLANTED_CODE):
        found = learn_code(others, recognizer, target, is_planted=view == PLANTED_CODE)
        if found is not None:
            learned["deanonymize_code", view] = found
    return learned


def _off_the_shelf_into(
    findings: Findings, shots: list[Shot], recognizer: str, gallery: str, limits: dict[str, float]
) -> None:
    # in the gallery of other pictures the control is the raw first picture's own gallery mate
    control_view = COPY if gallery == "same" else ORIGINAL
    control = build_trial(shots, control_view, recognizer, gallery=gallery)
    positive = reid_figures(control, raw_limits=limits)
    if gallery == "same":
        findings.curves["unprotected copy", recognizer] = roc(control.genuine, control.impostors)
    for view in (OURS, *PEERS):
        trial = build_trial(shots, view, recognizer, gallery=gallery)
        _rows_into(findings, "reid", view, recognizer, gallery, trial, positive, limits)
        if gallery == "same":
            findings.curves[f"{view}, off the shelf", recognizer] = roc(
                trial.genuine, trial.impostors
            )


def _learned_into(
    findings: Findings, shots: list[Shot], recognizer: str, gallery: str,
    learned: dict[tuple[str, str], Learned],
) -> None:  # fmt: skip
    for attack in _ATTACKS_LEARNED:
        if (attack, OURS) not in learned:
            continue
        trials = {}
        for view in LEARN_VIEWS[1:]:
            trials[view] = build_trial(
                shots, view, recognizer, gallery=gallery, learned=learned[attack, view]
            )
        positive = reid_figures(trials[PLANTED], raw_limits={})
        for view in (OURS, "blur", "pixelate"):
            _rows_into(findings, attack, view, recognizer, gallery, trials[view], positive, {})
            if gallery == "same" and (attack == _ATTACKS_LEARNED[-1] or view == OURS):
                findings.curves[f"{view}, {attack}", recognizer] = roc(
                    trials[view].genuine, trials[view].impostors
                )


def _code_into(
    findings: Findings, shots: list[Shot], recognizer: str, gallery: str,
    learned: dict[tuple[str, str], Learned],
) -> None:  # fmt: skip
    if ("deanonymize_code", CODE) not in learned:
        findings.skipped.append(f"deanonymize_code, {recognizer}, {gallery}: too few codes")
        return
    trials = {
        view: build_trial(
            shots, view, recognizer, gallery=gallery, learned=learned["deanonymize_code", view]
        )
        for view in (CODE, PLANTED_CODE)
    }
    positive = reid_figures(trials[PLANTED_CODE], raw_limits={})
    _rows_into(findings, "deanonymize_code", OURS, recognizer, gallery, trials[CODE], positive, {})
    if gallery == "same":
        trial = trials[CODE]
        findings.curves["code, deanonymize_code", recognizer] = roc(trial.genuine, trial.impostors)


def _linkage_into(findings: Findings, shots: list[Shot], recognizer: str) -> None:
    """Two protected pictures of one person: linkable?

    For peers, whose protection adds nothing secret, that is the attacker who protects his own
    gallery and compares like with like.
    """
    raw = build_trial(shots, ORIGINAL, recognizer, gallery="other")
    if len(raw.truth) < MIN_PROBES:
        findings.skipped.append(f"linkage, {recognizer}: {len(raw.truth)} people with two")
        return
    for view in (OURS, "blur", "pixelate"):
        trial = build_trial(shots, view, recognizer, gallery="other", gallery_view=view)
        findings.rows.append(
            _row("linkage", view, recognizer, "other", "auc", linkage_auc(trial), 0.5,
                 linkage_auc(raw).value, linkage_auc(trial.with_others()).value)
        )  # fmt: skip
        _rows_into(findings, "linkage", view, recognizer, "other", trial,
                   reid_figures(raw, raw_limits={}), {})  # fmt: skip


def _rows_into(
    findings: Findings, attack: str, view: str, recognizer: str, gallery: str, trial: Trial,
    positive: dict[str, Estimate], limits: dict[str, float],
) -> None:  # fmt: skip
    negative = reid_figures(trial.with_others(), raw_limits=limits)
    for metric, estimate in reid_figures(trial, raw_limits=limits).items():
        control = positive[metric].value if metric in positive else None
        findings.rows.append(
            _row(attack, view, recognizer, gallery, metric, estimate, chance_of(metric, trial),
                 control, negative[metric].value)
        )  # fmt: skip


def _row(
    attack: str, view: str, recognizer: str, gallery: str, metric: str, estimate: Estimate,
    chance: float, positive: float | None, negative: float | None,
) -> dict[str, Any]:  # fmt: skip
    num = estimate.num_persons
    value = {
        "name": attack,
        "recognizer": recognizer,
        "metric": metric,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "control_positive": positive,
        "control_negative": negative,
        "protection": view,
        "gallery": gallery,
        "chance": chance,
        "n": num,
        "decides": view == OURS and metric.removesuffix("_recalibrated") in _DECIDING,
    }
    if metric != "auc":
        value["p_value"] = binomial_tail(round(estimate.value * num), num, chance)
        value["p_value_negative"] = (
            binomial_tail(round(negative * num), num, chance) if negative is not None else None
        )
    return value
