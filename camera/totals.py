"""One report out of what capture and publish counted, over all their lives."""

from collections.abc import Collection, Mapping
from typing import Any

from veilcam.camera import barriers
from veilcam.camera.notes import Notes
from veilcam.camera.settings import Settings

_SUMS = ("frames_in", "frames_dropped", "people_seen", "heads_replaced", "faults")


def merge(notes: Notes, settings: Settings) -> dict[str, Any]:
    """What `run --json` prints (design, section 10).

    Counters are sums over every process that counted. Latencies are those of the last life;
    `cross` is from a picture handed to the ring to the same picture handed to the sink.
    """
    lives = list(notes.capture_values.values())
    outs = list(notes.publish_values.values())
    value: dict[str, Any] = {"mode": settings.mode}
    for life in lives:
        value |= {k: v for k, v in life.items() if k not in _SUMS}
    by_stage = dict(notes.faults)
    for life in lives:
        for stage, count in life.get("faults_by_stage", {}).items():
            by_stage[stage] = by_stage.get(stage, 0) + count
    value |= {name: total(lives, name) for name in _SUMS}
    value["frames_out"] = total(outs, "frames_out")
    value["frames_blank"] = total(outs, "frames_blank")
    value["frames_dropped"] += total(outs, "frames_skipped")
    if torn := total(outs, "frames_torn"):
        by_stage["torn"] = torn
    value["faults_by_stage"] = by_stage
    value["faults"] = sum(by_stage.values())
    value["restarts"] = {"capture": 0, "publish": 0} | dict(notes.restarts)
    value["outages"] = total(outs, "outages")
    value["longest_outage_s"] = max((v.get("longest_outage_s", 0.0) for v in outs), default=0.0)
    latency = dict(value.get("latency_ms", {}))
    for out in outs:
        latency |= out.get("latency_ms", {})
    value["latency_ms"] = latency
    value["barriers"] = barriers_value(notes.barriers)
    return value


def barriers_value(found: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Which barriers are up, by process, and the required ones that are not."""
    missing = barriers.all_missing(found)
    return {"processes": "two", "types": "Frame/SafeFrame", **found, "missing": missing}


def total(values: Collection[Mapping[str, Any]], name: str) -> int:
    """Sum of a counter over processes; those that do not count it add nothing."""
    return sum(int(value.get(name, 0)) for value in values)
