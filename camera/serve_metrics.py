"""`/metrics`: health of the run in Prometheus' text format. Counters and times, no picture data.

How many people were seen is left out on purpose: a monitoring system keeps its numbers for years.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_COUNTERS = {
    "frames_in": "Frames the camera gave.",
    "frames_out": "Safe frames sent.",
    "frames_blank": "Blanks among them.",
    "frames_dropped": "Frames that a newer one replaced before they were looked at.",
    "outages": "Times without a picture.",
}
_QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}
Family = CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily


class _Run:
    """One status as metrics.

    Args:
        status: As `totals.merge`, with what `serve_supervise` adds; empty before the first.
        num_readers: Of the stream.
    """

    def __init__(self, status: Mapping[str, Any], num_readers: int) -> None:
        self._status, self._num_readers = status, num_readers

    def collect(self) -> Iterator[Family]:
        """Every metric there is something to say of."""
        status = self._status
        for name, told in _COUNTERS.items():
            if name in status:
                yield CounterMetricFamily(f"veilcam_{name}", told, value=int(status[name]))
        labelled = (("faults", "stage", "faults_by_stage"), ("restarts", "process", "restarts"))
        for name, label, key in labelled:
            family = CounterMetricFamily(f"veilcam_{name}", f"{name} by {label}.", labels=[label])
            for kind, count in dict(status.get(key, {})).items():
                family.add_metric([str(kind)], int(count))
            yield family
        latency = GaugeMetricFamily(
            "veilcam_latency_seconds", "Added latency of a frame.", labels=["stage", "quantile"]
        )
        for stage, values in dict(status.get("latency_ms", {})).items():
            for name, quantile in _QUANTILES.items():
                if name in values:
                    latency.add_metric([str(stage), quantile], float(values[name]) / 1e3)
        yield latency
        yield GaugeMetricFamily(
            "veilcam_barriers_missing", "1 where a required barrier is down.",
            value=float(bool(status.get("missing"))),
        )  # fmt: skip
        yield GaugeMetricFamily(
            "veilcam_camera_up", "1 where the camera gives pictures.",
            value=float(bool(status.get("is_live")) and not status.get("problem")),
        )  # fmt: skip
        yield GaugeMetricFamily("veilcam_readers", "Of the stream.", value=self._num_readers)
        run = {key: str(status[key]) for key in ("mode", "strength") if key in status}
        yield InfoMetricFamily("veilcam_run", "How it runs.", value=run)


def metrics_text(status: Mapping[str, Any], num_readers: int) -> bytes:
    """The page `/metrics`.

    Args:
        status: The run's counters; may be empty.
        num_readers: Of the stream.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Run(status, num_readers))
    return bytes(generate_latest(registry))
