"""What `veilcam audit` does around the measuring: writes the report, says the verdict, exits."""

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from veilcam.camera.audit import AuditOptions, run_audit
from veilcam.camera.errors import ConfigError, SinkError

_log = logging.getLogger(__name__)
EXIT_CODES = {"pass": 0, "fail": 0, "broken": 1}
_PLOTTED = ("strength", "attacks", "utility", "verdict")  # of an audit beside another


def audit(
    options: AuditOptions, out: Path | None, beside: tuple[Path, ...] = ()
) -> tuple[dict[str, Any], int]:
    """Runs the audit and writes the page; the JSON value and the exit code.

    Args:
        options: What to measure.
        out: The page, .html
        beside: JSON of audits of the same bundle at other strengths, to plot beside this one.

    A failed attack test is a finding, exit 0; a failed control makes the audit useless, exit 1.
    """
    if options.cache is not None:
        _log.info("cache %s keeps arrays of numbers of --members and --non-members pictures;"
                  " name only public pictures there", options.cache)  # fmt: skip
    if out is not None and out.suffix != ".html":
        raise ConfigError(f"-o {out}: wanted a name that ends in .html")
    others = [_read_other(path) for path in beside]
    result = run_audit(options)
    plotted = result.value["beside"] = []
    for path, other in zip(beside, others, strict=True):
        if other["bundle_sha256"] == result.value["bundle_sha256"]:
            plotted.append({name: other[name] for name in _PLOTTED})
        else:
            _log.warning("%s is of another bundle and is not plotted", path)
    if out is not None:
        from veilcam.camera.audit_html import render

        write_text(out, render(result))
        _log.info("report: %s", out)
    verdict = result.value["verdict"]
    if verdict == "broken":
        _log.error("AUDIT BROKEN: a control failed, so no figure of it can be trusted")
        for reason in result.value["reasons"]:
            _log.error("  %s", reason)
    return result.value, EXIT_CODES[verdict]


def _read_other(path: Path) -> dict[str, Any]:
    """The JSON of an earlier audit. Raises ConfigError where it is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(value, dict) or not {*_PLOTTED, "bundle_sha256"} <= set(value):
        raise ConfigError(f"{path} is no result of `veilcam audit --json`")
    return value


def to_text(value: dict[str, Any]) -> str:
    """The deciding rows, controls that failed, and the verdict, for people."""
    lines = []
    for row in value["attacks"]:
        if row.get("decides"):
            positive = row["control_positive"]
            shown = "-" if positive is None else f"{positive:.3f}"
            lines.append(
                f"{row['name']:34} {row['recognizer']:11} {row.get('gallery', ''):6}"
                f" {row['metric']:32} {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
                f"  chance {row['chance']:.4f}  control {shown}"
            )
    for row in value["utility"]:
        if row["protection"] == "veilcam":
            lines.append(
                f"{row['metric']:34} {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
                f" {row['unit']}"
            )
    lines += [f"not done: {text}" for text in value["skipped"]]
    lines += [f"- {text}" for text in value["reasons"]]
    return "\n".join([*lines, f"verdict: {value['verdict']}"])


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SinkError(f"{path} cannot be written ({error.strerror}); choose another") from error
