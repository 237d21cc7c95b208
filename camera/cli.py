"""The command line. Sub-commands import what they need only when they run.

Results go to stdout, all else to stderr. Exit 0 ok, 1 our fault, 2 bad input, 130 interrupted.
"""

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click

from veilcam.camera.errors import ConfigError, VeilcamError

_log = logging.getLogger(__name__)
_JSON = click.option(
    "--json/--no-json", "as_json", default=False, help="One JSON object on stdout."
)
_BUNDLE = click.option(
    "--bundle", type=click.Path(path_type=Path), default=None, help="Weights; default: built in."
)
_STRENGTH = click.option(
    "--strength",
    type=click.Choice(["strict", "balanced", "faithful"]),
    default="balanced",
    help="How much of a person's own may pass; see `veilcam explain`.",
)


def _emit(value: dict[str, Any], as_json: bool, to_text: Callable[[dict[str, Any]], str]) -> None:
    click.echo(json.dumps(value) if as_json else to_text(value))


def _no_telemetry() -> None:
    """Where onnxruntime can report to its maker, it does: not from us."""
    with suppress(ImportError):  # who needs it says so
        importlib.import_module("onnxruntime").disable_telemetry_events()


def _as_lines(value: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            lines.append(f"{indent}{key}:\n{_as_lines(entry, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {entry}")
    return "\n".join(lines)


@click.group(
    epilog="\b\nExamples:\n  veilcam run demo --sink file:demo.mp4\n  veilcam run 0 --sink window"
)
@click.version_option(package_name="veilcam")
def cli() -> None:
    """Veilcam: a camera picture in, people who do not exist out."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("veilcam").setLevel(logging.INFO)


@cli.command(
    epilog="\b\nExamples:\n  veilcam run clip.mp4 --sink file:out.mp4\n"
    "  veilcam run 0 --sink virtual --delay 2"
)
@click.argument("source", default="0")
@click.option("--mode", type=click.Choice(["face", "scene", "frame"]), default="face")
@click.option("--sink", default="window", help="window, virtual, file:PATH, png:DIR or null.")
@_BUNDLE
@_STRENGTH
@click.option("--delay", type=click.IntRange(0, 3), default=0, help="Frames of look-ahead.")
@click.option("--frames", type=click.IntRange(1), default=None, help="Stop after so many.")
@click.option(
    "--require-barriers/--no-require-barriers", default=False, help="Refuse where one is not up."
)
@_JSON
def run(
    source: str, mode: str, sink: str, bundle: Path | None, strength: str, delay: int,
    frames: int | None, require_barriers: bool, as_json: bool,
) -> None:  # fmt: skip
    """Replace every head in SOURCE: a webcam number, clip, picture, rtsp:// address or `demo`."""
    from veilcam.camera.session import run_session
    from veilcam.camera.strength import choose

    if mode != "face":
        raise ConfigError(f"mode {mode!r} does not exist yet; wanted face")
    if not as_json:
        _log.info("mode face: heads are replaced; everything else in the picture stays as it is")
    choose(strength)  # the settings of both processes take it from here
    report, is_interrupted = run_session(
        source, sink, bundle=bundle, delay_frames=delay, max_frames=frames, mode=mode,
        require_barriers=require_barriers,
    )  # fmt: skip
    _emit(report | {"strength": strength}, as_json, _as_lines)
    if is_interrupted:
        raise click.exceptions.Exit(130)


@cli.command(
    epilog="\b\nExamples:\n  veilcam bench demo --frames 90\n  veilcam bench demo --compare --json"
)
@click.argument("source", default="demo")
@click.option("--compare/--no-compare", default=False, help="Peers on the same frames as well.")
@click.option("--tune/--no-tune", default=False, help="Pick precision and threads for here.")
@click.option("--frames", type=click.IntRange(1), default=None, help="Frames to measure.")
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="Latency plot, PNG.")
@_BUNDLE
@_JSON
def bench(
    source: str, compare: bool, tune: bool, frames: int | None, plot: Path | None,
    bundle: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure added latency, stage by stage, on SOURCE."""
    from veilcam.camera.bench import format_table, run_bench

    _no_telemetry()
    result = run_bench(source, compare=compare, tune=tune, frames=frames, bundle=bundle, plot=plot)
    _emit(result, as_json, format_table)


@cli.command(epilog="\b\nExamples:\n  veilcam explain\n  veilcam explain --json")
@_JSON
def explain(as_json: bool) -> None:
    """Say what the code carries at each strength: every field, its bits and its epsilon."""
    from veilcam.camera.explain import explain as explain_code
    from veilcam.camera.explain import format_text

    _emit(explain_code(), as_json, format_text)


@cli.command(
    epilog="\b\nExamples:\n  veilcam audit face.veil --people photos/ -o report.html\n"
    "  veilcam audit face.veil --quick --json"
)
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--people", type=click.Path(path_type=Path), help="Pictures of people to attack.")
@click.option("--clip", type=click.Path(path_type=Path), help="Clip to judge; default: the demo.")
@click.option("--models", type=click.Path(path_type=Path), help="Folder with faceres.onnx.")
@click.option("--public", type=click.Path(path_type=Path), help="Pictures that may be shown.")
@click.option("--members", type=click.Path(path_type=Path), help="Public training pictures.")
@click.option("--non-members", type=click.Path(path_type=Path), help="Like, but not trained on.")
@click.option("--cache", type=click.Path(path_type=Path), help="Arrays of public pictures.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Report, .html")
@click.option("--quick/--no-quick", default=False, help="Fewer people and frames.")
@_JSON
def audit(path: Path, out: Path | None, quick: bool, as_json: bool, **where: Path | None) -> None:
    """Measure what leaks from BUNDLE, with controls that must fire."""
    from veilcam.camera.audit import AuditOptions
    from veilcam.camera.audit_command import audit as run_it
    from veilcam.camera.audit_command import to_text

    _no_telemetry()
    value, code = run_it(AuditOptions(bundle=path, is_quick=quick, **where), out)
    _emit(value, as_json, to_text)
    if code:
        raise click.exceptions.Exit(code)


@cli.command(
    epilog="\b\nExamples:\n  veilcam album Pictures/2026 Shareable\n"
    "  veilcam album Pictures/2026 Shareable --jobs 4 --json"
)
@click.argument("folder", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--mode", type=click.Choice(["face", "scene", "frame"]), default="face")
@_BUNDLE
@_STRENGTH
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes; default: cores.")
@click.option("--errors", type=click.Path(path_type=Path), help="Table; default: OUT-errors.csv")
@click.option("--overwrite/--no-overwrite", default=False, help="OUT may hold other files.")
@_JSON
def album(
    folder: Path, out: Path, mode: str, bundle: Path | None, strength: str, jobs: int | None,
    errors: Path | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a shareable twin of the folder IN: people replaced, metadata gone, names kept."""
    from veilcam.camera.album import AlbumOptions, default_jobs, run_album, say_on_stderr, to_text

    options = AlbumOptions(
        mode=mode, bundle=bundle, strength=strength, jobs=jobs or default_jobs(), errors=errors,
        overwrite=overwrite,
    )  # fmt: skip
    report = run_album(folder, out, options, say_on_stderr)
    _emit(report, as_json, to_text)
    if report["errors"]:
        raise click.exceptions.Exit(2)


@cli.command(
    epilog="\b\nExamples:\n  veilcam social me.jpg -o upload.jpg\n"
    "  veilcam social me.heic -o story.png --size story --json"
)
@click.argument("image", metavar="IMG", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="New picture.")
@click.option("--mode", type=click.Choice(["face", "scene", "frame"]), default="face")
@click.option(
    "--size", default="large", help="full, large (2048 px), medium (1080), small (640), square, "
    "story.", type=click.Choice(["full", "large", "medium", "small", "square", "story"]),
)  # fmt: skip
@_BUNDLE
@_STRENGTH
@click.option("--credentials/--no-credentials", default=True, help="Sign by C2PA.")
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM chain to sign with.")
@click.option("--key", type=click.Path(path_type=Path), help="Its PEM key.")
@_JSON
def social(
    image: Path, out: Path, mode: str, size: str, bundle: Path | None, strength: str,
    credentials: bool, certificate: Path | None, key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a substitute of IMG for upload: people replaced, marked as made by a program."""
    from veilcam.camera.social import Size, SocialOptions, make_substitute

    options = SocialOptions(
        mode=mode, size=Size(size), bundle=bundle, strength=strength,
        has_credentials=credentials, certificate=certificate, key=key,
    )  # fmt: skip
    report = make_substitute(image, out, options)
    if report["credentials"] is None:
        _log.warning("no content credentials: %s", report["no_credentials_because"])
    _emit(report, as_json, _as_lines)


@cli.command(
    "verify",
    epilog="\b\nExamples:\n  veilcam verify upload.jpg\n  veilcam verify upload.jpg --json",
)
@click.argument("path", metavar="PICTURE", type=click.Path(path_type=Path))
@_JSON
def verify_picture(path: Path, as_json: bool) -> None:
    """Show the content credentials of PICTURE; exit 2 where it has none or was changed."""
    from veilcam.camera.social import to_text
    from veilcam.camera.social import verify as verify_it

    value = verify_it(path)
    _emit(value, as_json, to_text)
    if not value["is_valid"]:
        raise click.exceptions.Exit(2)


@cli.command(epilog="\b\nExamples:\n  veilcam doctor\n  veilcam doctor --json")
@_BUNDLE
@_JSON
def doctor(bundle: Path | None, as_json: bool) -> None:
    """Say what works on this machine, and what to do about the rest."""
    from veilcam.camera.doctor import examine, to_json, to_text

    _no_telemetry()
    checks = examine(bundle)
    value = to_json(checks)
    _emit(value, as_json, lambda _: to_text(checks))
    if not value["ok"]:
        raise click.exceptions.Exit(2)


@cli.command(
    epilog="\b\nExamples:\n  veilcam export runs/face -o face.veil\n"
    "  veilcam export runs/face -o face.veil --json"
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="NAME.veil")
@_JSON
def export(run_dir: Path, out: Path, as_json: bool) -> None:
    """Turn the training run RUN_DIR into a bundle of checked, hashed graphs."""
    if not run_dir.is_dir():
        raise ConfigError(f"no training run {run_dir}; wanted the folder `veilcam train` wrote")
    result = _needs_extra("veilcam.export.bundle", "export").export_run(run_dir, out)
    _emit(result if isinstance(result, dict) else {"bundle": str(out)}, as_json, _as_lines)


@cli.command(
    epilog="\b\nExamples:\n  veilcam train model/face.toml --run-dir runs/face\n"
    "  veilcam train model/face.toml --run-dir runs/face --resume --max-minutes 60"
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--resume/--no-resume", default=False, help="Go on from the last checkpoint.")
@click.option("--run-dir", type=click.Path(path_type=Path), default=None, help="Where it writes.")
@click.option("--max-minutes", type=float, default=None, help="Stop cleanly after so long.")
@click.option("--plan/--no-plan", default=False, help="Print what it would spend; train nothing.")
@_JSON
def train(
    config: Path, resume: bool, run_dir: Path | None, max_minutes: float | None, plan: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Train a generator as CONFIG says."""
    if not config.is_file():
        raise ConfigError(f"no training configuration {config}; wanted a TOML file")
    if plan:
        planned = _needs_extra("veilcam.model.plan", "train").read_plan(config)
        _emit(planned.as_dict(), as_json, lambda _: planned.as_text())
        return
    run = _needs_extra("veilcam.model.train", "train").train
    result = run(config, resume=resume, run_dir=run_dir, max_minutes=max_minutes)
    _emit(result if isinstance(result, dict) else {"done": True}, as_json, _as_lines)


@cli.group(
    epilog="\b\nExamples:\n  veilcam bundle show face.veil --json\n"
    "  veilcam bundle verify face.veil"
)
def bundle() -> None:
    """Look into a bundle of weights."""


@bundle.command(
    epilog="\b\nExamples:\n  veilcam bundle show face.veil\n  veilcam bundle show face.veil --json"
)
@click.argument("path", type=click.Path(path_type=Path))
@_JSON
def show(path: Path, as_json: bool) -> None:
    """Show code, training promise, data and files of the bundle at PATH."""
    from veilcam.camera.manifest import load_bundle

    _emit(load_bundle(path).describe(), as_json, _as_lines)


@bundle.command(
    epilog="\b\nExamples:\n  veilcam bundle verify face.veil\n"
    "  veilcam bundle verify face.veil --json"
)
@click.argument("path", type=click.Path(path_type=Path))
@_JSON
def verify(path: Path, as_json: bool) -> None:
    """Check hashes, schema and shapes of the bundle at PATH."""
    from veilcam.camera.manifest import load_bundle

    name = load_bundle(path).manifest["name"]
    _emit({"ok": True, "name": name}, as_json, lambda _: f"{path}: hashes and shapes match")


def _needs_extra(module: str, extra: str) -> Any:
    """A module of an optional extra. Looked up by name: `camera` itself never imports it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this needs {error.name}: run ./scripts/setup {extra}") from error


def _fail(message: str, code: int, argv: list[str]) -> int:
    click.echo(f"veilcam: {message}", err=True)
    if "--json" in argv:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    return code


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(call(sys.argv[1:] if argv is None else argv))


def call(argv: list[str]) -> int:
    """Runs one command; the exit code comes back.

    Unexpected faults never show their message: it could hold pixels or file names.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # one clear line is ours to say
    try:
        signal.signal(signal.SIGTERM, _terminate)
    except ValueError:  # not the main thread
        _log.debug("no SIGTERM handler outside the main thread")
    try:
        result = cli.main(args=argv, prog_name="veilcam", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", 130, argv)
    except click.ClickException as error:
        hint = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else ""
        return _fail(f"{error.format_message()} {hint}".replace("\n", " ").strip(), 2, argv)
    except VeilcamError as error:
        return _fail(" ".join(str(error).split()), error.exit_code, argv)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last line of defence: type only, never content
        where = _where(error)
        return _fail(f"unexpected {type(error).__name__} {where}; please report it", 1, argv)
    return result if isinstance(result, int) else 0


def _where(error: BaseException) -> str:
    """File and line inside this package where it happened."""
    trace, place = error.__traceback__, "outside the package"
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.parent.name in ("camera", "model", "export", "hardware"):
            place = f"at {path.parent.name}/{path.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


if __name__ == "__main__":
    main()
