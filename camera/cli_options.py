"""What the sub-commands share: their common options, and how a result is shown."""

import functools
import importlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from veilcam.camera.asked import MAX_FPS, SIZE, USUAL
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
    sides = SIZE.fullmatch(text)
    if sides is None:
        raise click.BadParameter(f"got {text!r}, wanted WIDTHxHEIGHT, as 640x360")
    return int(sides[1]), int(sides[2])


def asks_webcam(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --size and --fps; it gets both as `asked`, see `Settings.asked`."""

    @click.option(
        "--size",
        default=f"{USUAL.width}x{USUAL.height}",
        show_default=True,
        callback=_to_size,
        help="Picture asked of a webcam, which gives what it has nearest to it.",
    )
    @click.option(
        "--fps",
        type=click.IntRange(1, MAX_FPS),
        default=USUAL.fps,
        show_default=True,
        help="Pictures a second asked of a webcam.",
    )
    @functools.wraps(command)
    def call(*arguments: Any, size: tuple[int, int], fps: int, **options: Any) -> None:
        command(*arguments, asked={"width": size[0], "height": size[1], "fps": fps}, **options)

    return call


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
