"""The record of what was spent, written before it is spent.

`Ledger.spend` counts a step, brings the count to the disk (temporary name, fsync, rename, fsync of
the folder) and only then hands out the `Permit` without which `privacy.Release` does nothing. A
process killed at any point has at worst paid for a step it did not take; it can never have taken
one it did not pay for. A lock keeps a second process from spending the same budget.
"""

import fcntl
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dp_accounting

from veilcam.model.durable import write_json
from veilcam.model.plan import Plan
from veilcam.model.privacy import (
    ACCOUNTANT,
    RELATION,
    UNITS,
    Mechanism,
    Permit,
    epsilon_of,
)
from veilcam.model.private_data import PrivacyError

_log = logging.getLogger(__name__)
_VERSION = 1
NAME = "ledger.json"


class BudgetExceededError(PrivacyError):
    """The next step would spend more than was planned; nothing was spent."""


class Ledger:
    """Spends of one run. Open it before the first step and close it (or use `with`).

    Args:
        path: The file, beside the checkpoint; made if there is none.
        plan: What may be spent.

    Raises:
        BudgetExceededError: What other stages spent before, with the whole plan, is over budget.
        PrivacyError: The file is damaged, of another unit, or another process holds it.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = (path.parent / f"{path.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise PrivacyError(
                f"{path}: another run is spending from it; stop that first"
            ) from error
        try:
            self._entries = read_entries(path) if path.exists() else []
            self._check_plan()
        except BaseException:
            self.close()
            raise

    def _check_plan(self) -> None:
        """Everything spent outside this plan, plus the whole plan, must fit the budget."""
        if self._entries and self._entries[0]["mechanism"].get("unit", UNITS[0]) != self.plan.unit:
            raise PrivacyError(
                f"{self.path}: holds spends of another unit than the plan's ({self.plan.unit}); "
                "they don't add up: keep a ledger for each"
            )
        planned = {stage.fingerprint for stage in self.plan.stages}
        other = [e for e in self._entries if e["fingerprint"] not in planned and e["spent"]]
        if not other:
            return  # the plan fits its own budget, or there would be none
        names = {stage.stage for stage in self.plan.stages} & {e["stage"] for e in other}
        events = [_event(entry) for entry in other] + [s.dp_event() for s in self.plan.stages]
        total = epsilon_of(dp_accounting.ComposedDpEvent(events), self.plan.delta)
        if total > self.plan.epsilon:
            hint = f" (settings of {sorted(names)} changed since)" if names else ""
            raise BudgetExceededError(
                f"{self.path}: earlier spends{hint} and this plan make epsilon {total:.4g} at "
                f"delta {self.plan.delta:g}, over the budget {self.plan.epsilon:g}; go on with the "
                "earlier plan, plan fewer steps, or start from weights that never saw these people"
            )

    def spent(self, mechanism: Mechanism) -> int:
        """Steps of the stage that are paid for."""
        entry = self._find(mechanism)
        return int(entry["spent"]) if entry else 0

    def spend(self, mechanism: Mechanism) -> Permit:
        """Pays for one step, on the disk, and returns the permit to take it.

        Raises:
            BudgetExceededError: All planned steps are paid for.
            PrivacyError: The mechanism is not in the plan, or the disk refused the entry; then
                no step may be taken and the file is as before.
        """
        if mechanism not in self.plan.stages:
            raise PrivacyError(f"stage {mechanism.stage!r} as given is not in the plan")
        done = self.spent(mechanism)
        if done >= mechanism.iterations:
            raise BudgetExceededError(
                f"stage {mechanism.stage!r}: all {mechanism.iterations} planned steps are spent "
                f"(epsilon {self.plan.epsilon:g} at delta {self.plan.delta:g} for the whole plan); "
                "stop here, or start anew with a larger plan"
            )
        entry = {
            "stage": mechanism.stage,
            "fingerprint": mechanism.fingerprint,
            "spent": done + 1,
            "mechanism": asdict(mechanism),
        }
        entries = [e for e in self._entries if e["fingerprint"] != mechanism.fingerprint]
        _write(self.path, {**_header(self.plan), "entries": [*entries, entry]})
        self._entries = [*entries, entry]
        return Permit(mechanism)

    def check_covers(self, steps: dict[str, int]) -> None:
        """Refuses to resume from a checkpoint that took steps this ledger does not hold."""
        for name, count in steps.items():
            paid = self.spent(self.plan.stage(name))
            if count > paid:
                raise PrivacyError(
                    f"{self.path}: the checkpoint took {count} steps of {name!r} and the ledger "
                    f"holds {paid}; it is older than the checkpoint: restore the right one"
                )

    def promise(self) -> dict[str, Any]:
        """The manifest's `training` entry: what was spent so far."""
        return promise(self.path)

    def close(self) -> None:
        """Lets go of the lock."""
        self._lock.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find(self, mechanism: Mechanism) -> dict[str, Any] | None:
        mark = mechanism.fingerprint
        return next((e for e in self._entries if e["fingerprint"] == mark), None)


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Entries of a ledger, checked against their fingerprints."""
    try:
        table = json.loads(path.read_text())
        entries: list[dict[str, Any]] = table["entries"]
        got = (table["version"], table["unit"], table["relation"])
        spent_on = [Mechanism(**entry["mechanism"]) for entry in entries]
        marks = [m.fingerprint == e["fingerprint"] for m, e in zip(spent_on, entries, strict=True)]
        marks += [m.unit == table["unit"] for m in spent_on]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrivacyError(
            f"{path}: the ledger can't be read ({type(error).__name__}); without it nothing more "
            "may be spent on these weights: restore it from a copy"
        ) from error
    if got not in [(_VERSION, unit, RELATION.name) for unit in UNITS] or not all(marks):
        raise PrivacyError(f"{path}: the ledger was changed or is of another version: {got}")
    return entries


def promise(path: Path) -> dict[str, Any]:
    """Recomputes from a ledger what was spent, in the words of the bundle's manifest."""
    entries = [entry for entry in read_entries(path) if entry["spent"]]
    header = json.loads(path.read_text())
    delta = header["delta"]
    total = dp_accounting.ComposedDpEvent([_event(entry) for entry in entries])
    return {
        "unit": header["unit"],
        "epsilon": epsilon_of(total, delta) if entries else 0.0,
        "delta": delta,
        "accountant": ACCOUNTANT,
        "relation": RELATION.name,
        "stages": [
            {
                "stage": entry["stage"],
                "epsilon": epsilon_of(_event(entry), delta),
                **entry["mechanism"],
                "iterations": entry["spent"],
            }
            for entry in entries
        ],
    }


def _event(entry: dict[str, Any]) -> dp_accounting.DpEvent:
    return Mechanism(**entry["mechanism"]).dp_event(entry["spent"])


def _header(plan: Plan) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "unit": plan.unit,
        "relation": RELATION.name,
        "accountant": ACCOUNTANT,
        "budget_epsilon": plan.epsilon,
        "delta": plan.delta,
    }


def _write(path: Path, table: dict[str, Any]) -> None:
    """All or nothing, on the disk when it returns."""
    try:
        write_json(path, table)
    except OSError as error:
        raise PrivacyError(
            f"{path}: the spend could not be written ({error.strerror}); no step was taken and "
            "what was recorded before is kept"
        ) from error
