"""Command `imagine`, and the options by which other commands are given a cast."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from veilcam.camera.cli_options import BUNDLE, JSON, emit, no_telemetry

if TYPE_CHECKING:
    from veilcam.camera.cast import Cast

_log = logging.getLogger(__name__)
PROMPT = click.option(
    "--prompt", default=None, help="Who the stand-ins are, in words: 'an old man with a beard'."
)
CAST = click.option(
    "--cast", "cast_file", type=click.Path(path_type=Path), default=None,
    help='TOML file: 1 = "...", 2 = "...", others = "...".',
)  # fmt: skip


@click.command(
    epilog='\b\nExamples:\n  veilcam imagine "an old man with glasses, smiling" -n 8 -o sheet.png\n'
    '  veilcam imagine "a young woman with long black hair looking left" -o her.png -n 1 --json'
)
@click.argument("prompt", metavar="TEXT")
@click.option("-n", "num_people", type=click.IntRange(1, 100), default=8, help="How many people.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
@BUNDLE
@JSON
def imagine(prompt: str, num_people: int, out: Path, bundle: Path | None, as_json: bool) -> None:
    """Paint people who do not exist from TEXT. Each run draws others."""
    from veilcam.camera.imagine import imagine as imagine_them
    from veilcam.camera.imagine import to_text

    no_telemetry()
    report = imagine_them(prompt, out, num_people=num_people, bundle=bundle)
    for warning in report["warnings"]:
        _log.warning("%s", warning)
    emit(report, as_json, to_text)


def cast_of(
    prompt: str | None, cast_file: Path | None, bundle: Path | None
) -> "tuple[Cast, list[str]]":
    """The cast of `--prompt` and `--cast`, checked against the bundle, and what was warned of."""
    from veilcam.camera.cast import NOBODY, cast_of_options

    cast = cast_of_options(prompt, cast_file)
    if cast is None:
        return NOBODY, []
    from veilcam.camera.casting import check_cast
    from veilcam.camera.manifest import load_bundle

    warnings = list(check_cast(cast, load_bundle(bundle), paints_expression=False))
    for warning in warnings:
        _log.warning("%s", warning)
    return cast, warnings


def choose_cast_of(
    prompt: str | None, cast_file: Path | None, bundle: Path | None, *, mode: str = "face"
) -> list[str]:
    """Make this process cast by `--prompt` and `--cast`; what was warned of comes back."""
    from veilcam.camera.cast import choose_cast
    from veilcam.camera.errors import ConfigError

    if mode != "face" and (prompt is not None or cast_file is not None):
        raise ConfigError(f"words cast heads, and mode {mode} paints none; use --mode face")
    cast, warnings = cast_of(prompt, cast_file, bundle)
    choose_cast(cast)
    return warnings
