"""Counters of one run, and percentiles of durations."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class RunReport:
    """Counters of one run; `to_json` gives what `veilcam run --json` prints."""

    frames_in: int = 0
    frames_out: int = 0
    frames_dropped: int = 0
    frames_blank: int = 0
    heads_replaced: int = 0
    people: set[int] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    bundle_sha256: str = ""
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`; `faults` counts all, `faults_by_stage` each."""
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "frames_dropped": self.frames_dropped,
            "frames_blank": self.frames_blank,
            "faults": sum(self.faults.values()),
            "faults_by_stage": dict(self.faults),
            "people_seen": len(self.people),
            "heads_replaced": self.heads_replaced,
            "mode": "face",
            "strength": "strict",
            "bundle_sha256": self.bundle_sha256,
            "latency_ms": self.latency_ms,
            "barriers": {"processes": "one", "types": "Frame/SafeFrame"},
            **({"audit": self.audit} if self.audit else {}),
        }


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """p50, p95, p99 and max of some durations, milliseconds.

    >>> percentiles([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    p50, p95, p99 = (float(v) for v in np.percentile(values_ms, [50, 95, 99]))
    return {"p50": p50, "p95": p95, "p99": p99, "max": float(max(values_ms))}
