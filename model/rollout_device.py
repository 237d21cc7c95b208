"""A device's side of a rollout: take what is signed, watch it, answer with noise, go back if told.

`current.veil` always leads to a bundle that was verified whole: when it came, whenever it is
switched, and at every start. It is switched by rename. The one before is kept, so that going back
needs no download; where it was changed on the disk, the bundle the device began with is run. What
is answered is drawn once, kept, and then sent until it has arrived: asking again tells nothing
more.
"""

import json
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from veilcam.camera.errors import GraphError, InputError
from veilcam.camera.manifest import load_bundle
from veilcam.camera.pulse import newest
from veilcam.model.durable import write_json
from veilcam.model.rollout_ballot import randomized
from veilcam.model.rollout_offer import Offer, OfferRefused, check
from veilcam.model.rollout_state import ReportRefused
from veilcam.model.rollout_web import ServerUnreachable

_log = logging.getLogger(__name__)
FILE, CURRENT, BUNDLES = "device.json", "current.veil", "bundles"


@runtime_checkable
class Server(Protocol):
    """What a device asks; `rollout_web.Link` does it over the network.

    Raises `ServerUnreachable` where there is no answer, `ReportRefused` where a report is refused.
    """

    def offer(self) -> dict[str, Any]:
        """What the server says to this device."""

    def file(self, sha256: str) -> bytes:
        """A file of the bundle on offer, not yet checked."""

    def report(self, told: Mapping[str, Any]) -> None:
        """Sends a signed report; again is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the light audit of the running loop says.

    Attributes:
        bundle_sha256: Of the bundle the loop runs.
        samples, alarms: Since the loop started.
        is_broken: It cannot compare faces.
    """

    bundle_sha256: str
    samples: int
    alarms: int
    is_broken: bool = False


@dataclass(kw_only=True)
class State:
    """What a device keeps.

    Attributes:
        current, former: sha256 of bundles.
        sequence, raw: Of the last offer taken up.
        window: Of the verdict in hand: arm, samples and alarms at its start, time.
        answers: Noisy verdicts of the last offer by arm; drawn once.
        sent: What has arrived at the server, of the last offer.
        spent_epsilon: Of all answers to all offers.
    """

    current: str
    former: str = ""
    sequence: int = 0
    raw: str = ""
    window: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, bool] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    spent_epsilon: float = 0.0


class Device:
    """One device; call `step` now and then.

    Args:
        folder: Of bundles and state.
        link: The server's end.
        trusted: Whose offers are taken.
        bundle: What the device starts with, where `folder` is new.
        read_audit: What the loop's audit says now; None where no loop runs.
        restart: Makes the loop load `current.veil`.
        max_epsilon: Most that answers of this device may spend together.
        now: The clock, seconds since the epoch.
    """

    def __init__(
        self, folder: Path, link: Server, trusted: Ed25519PublicKey, *, bundle: Path,
        read_audit: Callable[[], Audit | None], restart: Callable[[], None] = lambda: None,
        max_epsilon: float = 10.0, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.folder, self._link, self._trusted = folder, link, trusted
        self._read_audit, self._restart, self._now = read_audit, restart, now
        self._max_epsilon = max_epsilon
        self._first, self._told_refusal = bundle, ""
        (folder / BUNDLES).mkdir(parents=True, exist_ok=True)
        if (folder / FILE).exists():
            self.state = _read_state(folder / FILE)
        else:
            self.state = State(current=self._keep(bundle))
            self._write()
        self._check_current()
        self._point()

    def step(self) -> str:
        """Asks once and does what follows; says what it did.

        Raises:
            ServerUnreachable: Try again later.
        """
        told = self._link.offer()
        try:
            offer = self._offer(told)
        except OfferRefused as error:
            return self._refuse(told, str(error))
        if told.get("status") == "rolled_back":
            return self._go_back(offer)
        if told.get("is_new") is True and self.state.current != offer.bundle_sha256:
            return self._take(offer)
        self._send_taken(offer)
        return self._answer(offer)

    def _offer(self, told: Mapping[str, Any]) -> Offer:
        """The offer, checked; one that was taken up before is not checked for its sequence."""
        last = self.state.sequence
        is_known = bool(told.get("raw")) and told.get("raw") == self.state.raw
        offer = check(told, self._trusted, last - 1 if is_known else last)
        if not is_known:
            self.state.sequence, self.state.raw = offer.sequence, str(told["raw"])
            self.state.window, self.state.answers, self.state.sent = {}, {}, []
            self._write()
        return offer

    def _refuse(self, told: Mapping[str, Any], reason: str) -> str:
        """Tells the server why, once for each reason; what it runs stays."""
        if reason != self._told_refusal:
            _log.warning("%s", reason)
            try:
                sequence = json.loads(_unpacked(told))["sequence"]
                self._link.report({"kind": "refused", "sequence": sequence, "reason": reason})
            except (ReportRefused, ValueError, KeyError, TypeError):
                pass  # it was no offer at all
            self._told_refusal = reason
        return f"refused: {reason}"

    def _take(self, offer: Offer) -> str:
        target = self._place(offer.bundle_sha256)
        if not self._is_whole(offer.bundle_sha256):
            shutil.rmtree(target, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=".new.", dir=self.folder / BUNDLES))
            try:
                for name, wanted in offer.files.items():
                    data = self._link.file(wanted)
                    if sha256(data).hexdigest() != wanted:
                        raise OfferRefused(f"{name} came changed; it is not taken")
                    _write_synced(partial / name, data)
                if load_bundle(partial).sha256 != offer.bundle_sha256:
                    raise OfferRefused("the bundle is another than signed")
                partial.replace(target)
            except (OfferRefused, GraphError) as error:
                return self._refuse({"raw": self.state.raw}, str(error))
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        self.state.former, self.state.current = self.state.current, offer.bundle_sha256
        self.state.window = {}
        self._write()
        self._point()
        self._restart()
        self._send_taken(offer)
        return "taken"

    def _go_back(self, offer: Offer) -> str:
        if self.state.current != offer.bundle_sha256:
            return "rolled back; nothing to do"
        self.state.current, self.state.former = self.state.former, self.state.current
        self.state.window = {}
        self._check_current()
        self._write()
        self._point()
        self._restart()
        return "went back"

    def _send_taken(self, offer: Offer) -> None:
        if self.state.current == offer.bundle_sha256 and "taken" not in self.state.sent:
            self._link.report({"kind": "taken", "sequence": offer.sequence})
            self.state.sent.append("taken")
            self._write()

    def _answer(self, offer: Offer) -> str:
        arm = {offer.bundle_sha256: "new", offer.former_sha256: "former"}.get(self.state.current)
        if arm is None:
            return "runs neither bundle; says nothing"
        if arm in self.state.sent:
            return "answered"
        if arm not in self.state.answers:
            if self.state.spent_epsilon + offer.local_epsilon > self._max_epsilon:
                return self._refuse(
                    {"raw": self.state.raw},
                    f"answers of this device have spent epsilon {self.state.spent_epsilon:g} of "
                    f"{self._max_epsilon:g}; it says nothing more",
                )
            is_due, has_failed = self._verdict(offer, arm)
            if not is_due:
                return "watching"
            self.state.answers[arm] = randomized(has_failed, offer.local_epsilon)
            self.state.spent_epsilon += offer.local_epsilon
            self._write()  # before it is sent: it is never drawn twice
        told = {"kind": "verdict", "arm": arm, "has_failed": self.state.answers[arm]}
        self._link.report(told | {"sequence": offer.sequence})
        self.state.sent.append(arm)
        self._write()
        return "answered"

    def _verdict(self, offer: Offer, arm: str) -> tuple[bool, bool | None]:
        """Whether the audit has come to an end, and whether it failed; None: nothing was seen."""
        audit, window = self._read_audit(), self.state.window
        is_mine = audit is not None and audit.bundle_sha256 == self.state.current
        samples, alarms = (audit.samples, audit.alarms) if audit and is_mine else (0, 0)
        is_new_loop = is_mine and samples < window.get("samples", 0)
        if window.get("arm") != arm or is_new_loop:
            start = window.get("start") if window.get("arm") == arm else None
            from_zero = (
                is_new_loop or arm == "new"
            )  # its loop began with it: all counts are its own
            self.state.window = {
                "arm": arm, "samples": 0 if from_zero else samples,
                "alarms": 0 if from_zero else alarms, "start": start or self._now(),
            }  # fmt: skip
            self._write()
            window = self.state.window
        if is_mine and audit is not None and audit.is_broken:
            return True, True
        if is_mine and alarms > window["alarms"]:
            return True, True
        if is_mine and samples - window["samples"] >= offer.min_samples:
            return True, False
        return self._now() - window["start"] >= offer.patience_s, None

    def _keep(self, bundle: Path) -> str:
        """Copies the bundle the device starts with."""
        loaded = load_bundle(bundle)
        target = self._place(loaded.sha256)
        if not self._is_whole(loaded.sha256):
            partial = self.folder / BUNDLES / f".{loaded.sha256}.partial"
            shutil.rmtree(target, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(bundle, partial)
            partial.replace(target)
        return loaded.sha256

    def _place(self, sha256: str) -> Path:
        return self.folder / BUNDLES / f"{sha256}.veil"

    def _is_whole(self, sha256: str) -> bool:
        """Whether that bundle lies here as it came; a later hand or a lost write shows."""
        try:
            return load_bundle(self._place(sha256)).sha256 == sha256
        except GraphError:
            return False

    def _check_current(self) -> None:
        """What can't be vouched for is not run: the bundle the device began with is."""
        if not self._is_whole(self.state.current):
            _log.error("bundle %s was changed on the disk", self.state.current[:16])
            self.state.current = self._keep(self._first)
            self.state.window = {}
            self._write()

    def _point(self) -> None:
        link = self.folder / f".{CURRENT}.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(BUNDLES) / f"{self.state.current}.veil")
        link.replace(self.folder / CURRENT)

    def _write(self) -> None:
        write_json(self.folder / FILE, asdict(self.state))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def run(device: Device, *, every_s: float, is_over: Callable[[], bool] = lambda: False) -> None:
    """Steps until told otherwise; an unreachable server or a refused report is tried again."""
    last = ""
    while not is_over():
        try:
            said = device.step()
        except (ServerUnreachable, ReportRefused) as error:
            said = str(error)
        if said != last:
            _log.info("%s", said)
            last = said
        time.sleep(every_s)


def pulse_audit(path: Path) -> Callable[[], Audit | None]:
    """Reads the pulse that the loop keeps, a file or its folder: see `camera.pulse`."""

    def read() -> Audit | None:
        try:
            told = newest(path)
            audit = told["audit"]
            return Audit(
                bundle_sha256=str(told["bundle_sha256"]), samples=int(audit["samples"]),
                alarms=int(audit["alarms"]), is_broken=audit.get("state") == "broken",
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    return read


def restarter(command: str | None) -> Callable[[], None]:
    """Runs a command, e.g. `systemctl restart veilcam`; its failure is logged."""

    def restart() -> None:
        if command:
            done = subprocess.run(shlex.split(command), check=False, capture_output=True)
            if done.returncode:
                _log.error("%s ended with %d", command, done.returncode)

    return restart


def _unpacked(told: Mapping[str, Any]) -> bytes:
    import base64

    return base64.b64decode(str(told["raw"]))


def _read_state(path: Path) -> State:
    try:
        return State(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__})") from error
