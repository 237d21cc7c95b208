"""A staged rollout on the server's disk: who took the bundle, what came back, what was decided.

States: `running` -> `done` (everybody is offered it) or `rolled_back` (nobody keeps it). A stage is
decided once, when a quorum of its devices has answered; a device that took the bundle and was not
heard of for `silence_s` counts as one whose audit failed: a bundle that stops the loop reports
nothing. Every change is on the disk before it is answered, so a server that is killed goes on in
the middle of a stage.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

from veilcam.camera.errors import ConfigError, InputError, VeilcamError
from veilcam.camera.manifest import load_bundle
from veilcam.model.durable import write_json
from veilcam.model.federate_keys import Roster
from veilcam.model.rollout_ballot import Count, detectable, is_in_stage, p_worse
from veilcam.model.rollout_offer import Offer, read_key, sign

_log = logging.getLogger(__name__)
FILE, FILES = "rollout.json", "files"
_VERSION = 1


class ReportRefused(VeilcamError):
    """A report that is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a rollout is decided.

    Attributes:
        stages: Percent of the devices, rising, 100 last.
        alpha: Chance to roll back a bundle that is no worse, over all stages.
        min_reports: Answers of each arm without which nothing is decided.
        quorum: Share of a stage's devices, and of as many others, whose answers decide it.
        silence_s: After so long without an answer a device that took the bundle counts as failed.
    """

    stages: tuple[float, ...] = (5.0, 25.0, 100.0)
    alpha: float = 0.05
    min_reports: int = 20
    quorum: float = 0.8
    silence_s: float = 86_400.0

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in zip((0.0, *self.stages), self.stages, strict=False))
        if not self.stages or not rises or self.stages[-1] != 100:
            raise ConfigError(f"stages={self.stages} must rise from above 0 and end at 100")
        if len(self.stages) < 2:
            raise ConfigError("one stage has nothing to compare with; give at least two")
        if not 0 < self.alpha < 1 or not 0 < self.quorum <= 1:
            raise ConfigError(
                f"alpha={self.alpha} must be in (0, 1), quorum={self.quorum} in (0, 1]"
            )
        if self.min_reports < 1 or not self.silence_s > 0:
            raise ConfigError("min_reports must be >= 1 and silence_s > 0")


@dataclass(kw_only=True)
class State:
    """What is on the disk."""

    envelope: dict[str, str]
    offer: dict[str, Any]
    rules: dict[str, Any]
    status: str = "running"
    stage: int = 0
    taken: dict[str, float] = field(default_factory=dict)
    answers: dict[str, dict[str, bool]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)


class Rollout:
    """A rollout that was begun; `handle` answers devices. Safe for threads.

    Args:
        folder: Of its state.
        roster: Registered devices.
        now: The clock, seconds since the epoch.
    """

    def __init__(
        self, folder: Path, roster: Roster, *, now: Callable[[], float] = time.time
    ) -> None:
        self.folder, self.roster, self._now = folder, roster, now
        self._lock = RLock()
        self.state = _read(folder / FILE)
        self.offer = Offer(**self.state.offer)
        rules = self.state.rules
        self.rules = Rules(**(rules | {"stages": tuple(rules["stages"])}))

    @property
    def percent(self) -> float:
        """Of the devices that are offered the bundle now."""
        return 0.0 if self.state.status == "rolled_back" else self.rules.stages[self.state.stage]

    def is_new(self, name: str) -> bool:
        """Whether a device is offered the bundle now."""
        return is_in_stage(name, self.offer.bundle_sha256, self.percent)

    def told(self, name: str) -> dict[str, Any]:
        """What a device that asks is told."""
        return {**self.state.envelope, "status": self.state.status, "is_new": self.is_new(name)}

    def file(self, sha256: str) -> Path | None:
        """A file of the bundle on offer."""
        return self.folder / FILES / sha256 if sha256 in self.offer.files.values() else None

    def report(self, name: str, told: Mapping[str, Any]) -> None:
        """Counts what a registered device said, once.

        Raises:
            ReportRefused: It is of another offer, of no known kind, or says something else than
                before.
        """
        with self._lock:
            if told.get("sequence") != self.offer.sequence:
                raise ReportRefused(f"this rollout is number {self.offer.sequence}")
            kind = told.get("kind")
            if kind == "refused":
                self.state.refused[name] = str(told.get("reason", ""))[:300]
            elif kind == "taken":
                self.state.taken.setdefault(name, self._now())
            elif kind == "verdict":
                self._verdict(name, told.get("arm"), told.get("has_failed"))
            else:
                raise ReportRefused(f"unknown kind {kind!r}")
            self._decide()
            self._write()

    def _verdict(self, name: str, arm: object, has_failed: object) -> None:
        if arm not in ("new", "former") or not isinstance(has_failed, bool):
            raise ReportRefused("a verdict needs arm new or former, and has_failed")
        if arm == "new" and name not in self.state.taken:
            raise ReportRefused("a verdict on the new bundle from a device that has not taken it")
        mine = self.state.answers.setdefault(name, {})
        if mine.setdefault(str(arm), has_failed) != has_failed:
            raise ReportRefused("a device answers once for each bundle; the first answer counts")

    def tick(self) -> None:
        """Looks whether silence has decided the stage."""
        with self._lock:
            if self._decide():
                self._write()

    def counts(self) -> tuple[Count, Count, int]:
        """Answers on the new bundle and on the former one; how many of the first are silence."""
        with self._lock:
            answers = self.state.answers
            new = [a["new"] for a in answers.values() if "new" in a]
            former = [a["former"] for a in answers.values() if "former" in a]
            late = self._now() - self.rules.silence_s
            silent = sum(
                when < late and "new" not in answers.get(name, {})
                for name, when in self.state.taken.items()
            )
        return (
            Count(answers=len(new) + silent, fails=sum(new) + silent),
            Count(answers=len(former), fails=sum(former)),
            silent,
        )

    def needed(self) -> int:
        """Answers on the new bundle that decide the stage."""
        size = sum(self.is_new(name) for name in self.roster.names)
        return max(self.rules.min_reports, math.ceil(self.rules.quorum * size))

    def needed_former(self) -> int:
        """Answers on the former bundle to compare with: as many as the first stage gives."""
        first = self.rules.stages[0]
        inside = sum(
            is_in_stage(name, self.offer.bundle_sha256, first) for name in self.roster.names
        )
        fewer = min(inside, len(self.roster.names) - inside)
        return max(self.rules.min_reports, math.ceil(self.rules.quorum * fewer))

    def _decide(self) -> bool:
        """Widens, ends or rolls back where the stage has its answers; says whether it did."""
        if self.state.status != "running":
            return False
        new, former, silent = self.counts()
        if new.answers < self.needed() or former.answers < self.needed_former():
            return False
        alpha = self.rules.alpha / len(self.rules.stages)
        p_value = p_worse(new, former)
        epsilon = self.offer.local_epsilon
        decision = {
            "percent": self.percent, "p_worse": round(p_value, 6), "alpha": round(alpha, 6),
            "new": new.as_dict(epsilon), "former": former.as_dict(epsilon), "silent": silent,
        }  # fmt: skip
        if p_value <= alpha:
            self.state.status, decision["outcome"] = "rolled_back", "rolled back"
        elif self.state.stage + 1 == len(self.rules.stages):
            self.state.status, decision["outcome"] = "done", "done"
        else:
            self.state.stage += 1
            decision["outcome"] = f"widened to {self.percent:g} %"
        self.state.decisions.append(decision)
        _log.info("%s: %s", decision["percent"], decision["outcome"])
        return True

    def status(self) -> dict[str, Any]:
        """For people and programs."""
        new, former, silent = self.counts()
        epsilon = self.offer.local_epsilon
        return {
            "status": self.state.status, "sequence": self.offer.sequence, "percent": self.percent,
            "bundle_sha256": self.offer.bundle_sha256, "devices": len(self.roster.names),
            "taken": len(self.state.taken), "silent": silent, "needed": self.needed(),
            "new": new.as_dict(epsilon), "former": former.as_dict(epsilon),
            "finds_a_rise_of": round(detectable(
                self.needed(), max(former.answers, self.needed_former()), epsilon=epsilon,
                alpha=self.rules.alpha / len(self.rules.stages),
            ), 3),
            "local_dp": {"unit": "device", "epsilon_per_answer": epsilon, "most_answers": 2},
            "audit": self.state.audit, "refused": self.state.refused,
            "decisions": self.state.decisions,
        }  # fmt: skip

    def _write(self) -> None:
        write_json(self.folder / FILE, {"version": _VERSION, **asdict(self.state)})


def begin(
    folder: Path, bundle: Path, former_sha256: str, key: Path, roster: Roster, rules: Rules, *,
    local_epsilon: float, min_samples: int, patience_s: float, audit: Path | None = None,
) -> Rollout:  # fmt: skip
    """Signs a bundle, copies its files and starts the first stage.

    Where `audit` is given, it is what `veilcam audit --json` said of the bundle, and has to be a
    pass.

    Raises:
        ConfigError: Another rollout is running, or a stage has too few devices to decide anything.
        GraphError: The bundle is not sound.
    """
    if not 0 < local_epsilon < 20 or min_samples < 1 or not 0 < patience_s < math.inf:
        raise ConfigError("local_epsilon must be in (0, 20), min_samples >= 1, patience_s > 0")
    loaded, sequence = load_bundle(bundle), 1
    told = {} if audit is None else passed_audit(audit, loaded.sha256)
    if (folder / FILE).exists():
        old = _read(folder / FILE)
        if old.status == "running":
            raise ConfigError(f"{folder}: a rollout is running; `veilcam federate rollout status`")
        sequence = int(old.offer["sequence"]) + 1
    sizes = [
        sum(is_in_stage(name, loaded.sha256, percent) for name in roster.names)
        for percent in rules.stages
    ]
    others = len(roster.names) - sizes[0]
    if min(sizes[0], others) < rules.min_reports:
        raise ConfigError(
            f"the first stage ({rules.stages[0]:g} %) has {sizes[0]} of {len(roster.names)} "
            f"devices and leaves {others} to compare with; {rules.min_reports} of each are needed "
            "(--min-reports): start with another share"
        )
    offer = Offer(
        sequence=sequence, bundle_sha256=loaded.sha256, former_sha256=former_sha256,
        files={**loaded.manifest["files"], "manifest.json": loaded.sha256},
        local_epsilon=local_epsilon, min_samples=min_samples, patience_s=patience_s,
    )  # fmt: skip
    envelope = sign(offer, read_key(key))
    shutil.rmtree(folder / FILES, ignore_errors=True)
    (folder / FILES).mkdir(parents=True)
    for name, sha256 in offer.files.items():
        data = loaded.file_bytes(name) if name != "manifest.json" else (bundle / name).read_bytes()
        (folder / FILES / sha256).write_bytes(data)
    state = State(envelope=envelope, offer=asdict(offer), rules=asdict(rules), audit=told)
    write_json(folder / FILE, {"version": _VERSION, **asdict(state)})
    return Rollout(folder, roster)


def passed_audit(path: Path, sha256: str) -> dict[str, Any]:
    """What an audit said, where it is of this bundle and passed.

    Raises:
        InputError: It is no audit.
        ConfigError: It is another bundle's, or its verdict is another.
    """
    try:
        told = json.loads(path.read_text())
        found, verdict = str(told["bundle_sha256"]), str(told["verdict"])
        kept = {key: told[key] for key in ("verdict", "strength", "is_quick", "people")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: wanted what `veilcam audit BUNDLE --json` says ({type(error).__name__})"
        ) from error
    if found != sha256:
        raise ConfigError(f"{path}: of bundle {found[:16]}, and {sha256[:16]} is to go out")
    if verdict != "pass":
        raise ConfigError(f"{path}: the audit's verdict is {verdict!r}; only a passed one goes out")
    return kept


def _read(path: Path) -> State:
    try:
        told = json.loads(path.read_text())
        version = told.pop("version")
        if version != _VERSION:
            raise InputError(f"{path}: of version {version}; this program reads {_VERSION}")
        return State(**told)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no rollout; start one with `federate rollout begin`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__})") from error
