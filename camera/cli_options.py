"""What the sub-commands share: their common options, and how a result is shown."""

import importlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from veilcam.camera.errors import ConfigError

JSON = click.option("--json/--no-json", "as_json", default=False, help="One JSON object on stdout.")
BUNDLE = click.option(
    "--bundle", type=click.Path(path_type=Path), default=None, help="Weights; default: built in."
)
STRENGTH = click.option(
    "--strength",
    type=click.Choice(["strict", "balanced", "faithful"]),
    default="balanced",
    help="How much of a person's own may pass; see `veilcam explain`.",
)

AUDIT = click.option(
    "--audit/--no-audit", default=False,
    help="Watch the output for originals; strength rises where one is recognized (mode face).",
)  # fmt: skip


def _to_size(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, int]:
    """Width and height out of `1280x720`."""
    sides = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if sides is None:
        raise click.BadParameter(f"got {text!r}, wanted WIDTHxHEIGHT, as 640x360")
    return int(sides[1]), int(sides[2])


SIZE = click.option(
    "--size", default="1280x720", show_default=True, callback=_to_size,
    help="Picture asked of a webcam, which gives what it has nearest to it.",
)  # fmt: skip
FPS = click.option(
    "--fps", type=click.IntRange(1, 240), default=30, show_default=True,
    help="Pictures a second asked of a webcam.",
)  # fmt: skip


def asked_of(size: tuple[int, int], fps: int) -> dict[str, int]:
    """The two as `Settings.asked`."""
    return {"width": size[0], "height": size[1], "fps": fps}


def emit(value: dict[str, Any], as_json: bool, to_text: Callable[[dict[str, Any]], str]) -> None:
    """A result on stdout: one JSON object, or the text that `to_text` makes of it."""
    click.echo(json.dumps(value) if as_json else to_text(value))


def no_telemetry() -> None:
    """Where onnxruntime can report to its maker, it does: not from us."""
    with suppress(ImportError):  # who needs it says so
        importlib.import_module("onnxruntime").disable_telemetry_events()


def as_lines(value: dict[str, Any], indent: str = "") -> str:
    """One `key: value` on each line, what is nested further in."""
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            lines.append(f"{indent}{key}:\n{as_lines(entry, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {entry}")
    return "\n".join(lines)


def needs_extra(module: str, extra: str) -> Any:
    """A module of an optional extra. Looked up by name: `camera` itself never imports it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this needs {error.name}: run ./scripts/setup {extra}") from error
