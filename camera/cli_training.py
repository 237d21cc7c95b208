"""Commands that make bundles: `train` and `export`."""

from pathlib import Path

import click

from veilcam.camera.cli_options import JSON, as_lines, emit, needs_extra
from veilcam.camera.errors import ConfigError


@click.command(
    epilog="\b\nExamples:\n  veilcam export runs/face -o face.veil\n"
    "  veilcam export runs/face -o face.veil --json"
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="NAME.veil")
@JSON
def export(run_dir: Path, out: Path, as_json: bool) -> None:
    """Turn the training run RUN_DIR into a bundle of checked, hashed graphs."""
    if not run_dir.is_dir():
        raise ConfigError(f"no training run {run_dir}; wanted the folder `veilcam train` wrote")
    result = needs_extra("veilcam.export.bundle", "export").export_run(run_dir, out)
    emit(result if isinstance(result, dict) else {"bundle": str(out)}, as_json, as_lines)


@click.command(
    epilog="\b\nExamples:\n  veilcam train model/face.toml --run-dir runs/face\n"
    "  veilcam train model/face.toml --run-dir runs/face --resume --max-minutes 60"
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--resume/--no-resume", default=False, help="Go on from the last checkpoint.")
@click.option("--run-dir", type=click.Path(path_type=Path), default=None, help="Where it writes.")
@click.option("--max-minutes", type=float, default=None, help="Stop cleanly after so long.")
@click.option("--plan/--no-plan", default=False, help="Print what it would spend; train nothing.")
@JSON
def train(
    config: Path, resume: bool, run_dir: Path | None, max_minutes: float | None, plan: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Train a generator as CONFIG says."""
    if not config.is_file():
        raise ConfigError(f"no training configuration {config}; wanted a TOML file")
    if plan:
        planned = needs_extra("veilcam.model.plan", "train").read_plan(config)
        emit(planned.as_dict(), as_json, lambda _: planned.as_text())
        return
    run = needs_extra("veilcam.model.train", "train").train
    result = run(config, resume=resume, run_dir=run_dir, max_minutes=max_minutes)
    emit(result if isinstance(result, dict) else {"done": True}, as_json, as_lines)
