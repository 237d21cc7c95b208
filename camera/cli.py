"""The command line. Sub-commands import what they need only when they run.

Results go to stdout, all else to stderr. Exit 0 ok, 1 our fault, 2 bad input, 130 interrupted.
"""

import importlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from veilcam.camera.cli_imagine import CAST, PROMPT, choose_cast_of
from veilcam.camera.cli_options import (
    AUDIT,
    BUNDLE,
    JSON,
    STRENGTH,
    as_lines,
    asks_webcam,
    emit,
    no_telemetry,
)
from veilcam.camera.errors import ConfigError, VeilcamError

_log = logging.getLogger(__name__)
_SHOWN = {  # what leaves, told at the start
    "face": "heads are replaced; everything else in the picture stays as it is",
    "scene": "people become actors before a learned background; no live pixel leaves",
    "frame": "all is painted from a coarse, noised code; no pixel of the source leaves",
}
# Commands with modules of their own, which are imported when one is asked for or listed.
_LATER = {
    "album": "veilcam.camera.cli_pictures:album",
    "export": "veilcam.camera.cli_training:export",
    "federate": "veilcam.model.cli_federate:federate",
    "flash": "veilcam.hardware.cli:flash",
    "image": "veilcam.hardware.cli:image",
    "imagine": "veilcam.camera.cli_imagine:imagine",
    "serve": "veilcam.camera.cli_serve:serve",
    "search": "veilcam.camera.cli_search:search",
    "status": "veilcam.camera.cli_status:status",
    "social": "veilcam.camera.cli_pictures:social",
    "train": "veilcam.camera.cli_training:train",
    "verify": "veilcam.camera.cli_pictures:verify_picture",
}


class LazyGroup(click.Group):
    """A group that imports the commands of `_LATER` by name: `camera` depends on none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the alphabet's order."""
        return sorted({*super().list_commands(ctx), *_LATER})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, None where there is none."""
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        module, _, name = _LATER[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(
    cls=LazyGroup,
    epilog="\b\nExamples:\n  veilcam run demo --sink file:demo.mp4\n  veilcam run 0 --sink window",
)
@click.version_option(package_name="veilcam")
def cli() -> None:
    """Veilcam: a camera picture in, people who do not exist out."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("veilcam").setLevel(logging.INFO)


@cli.command(
    epilog="\b\nExamples:\n  veilcam run clip.mp4 --sink file:out.mp4\n"
    "  veilcam run 0 --sink virtual --delay 2 --prompt 'an old man with grey hair'"
)
@click.argument("source", default="0")
@click.option("--mode", type=click.Choice(["face", "scene", "frame"]), default="face")
@click.option(
    "--sink", default="window",
    help="window, virtual, web[:PORT], rtsp[:PORT], file:PATH, png:DIR or null.",
)  # fmt: skip
@BUNDLE
@STRENGTH
@PROMPT
@CAST
@click.option("--delay", type=click.IntRange(0, 3), default=0, help="Frames of look-ahead.")
@asks_webcam
@click.option("--frames", type=click.IntRange(1), default=None, help="Stop after so many.")
@AUDIT
@click.option(
    "--require-barriers/--no-require-barriers", default=False, help="Refuse where one is not up."
)
@JSON
def run(
    source: str, mode: str, sink: str, bundle: Path | None, strength: str, prompt: str | None,
    cast_file: Path | None, delay: int, asked: dict[str, int], frames: int | None,
    audit: bool, require_barriers: bool, as_json: bool,
) -> None:  # fmt: skip
    """Replace people in SOURCE: a webcam number, clip, picture, rtsp:// address or `demo`.

    Mode face replaces every head; scene shows a learned background and actors, nothing live;
    frame paints the whole picture from a coarse, noised code, for moving cameras too.
    """
    from veilcam.camera.capture import BUILDERS
    from veilcam.camera.session import run_session
    from veilcam.camera.strength import choose
    from veilcam.camera.watch_choice import choose_watch

    if mode not in BUILDERS:
        raise ConfigError(f"mode {mode!r} does not exist yet; wanted {', '.join(BUILDERS)}")
    if audit and mode != "face":
        raise ConfigError(f"--audit compares faces, which mode {mode} does not show; drop it")
    choose_watch(audit)
    if not as_json:
        _log.info("mode %s: %s", mode, _SHOWN[mode])
    choose(strength)  # the settings of both processes take it from here
    warnings = choose_cast_of(prompt, cast_file, bundle, mode=mode)  # and this
    report, is_interrupted = run_session(
        source, sink, bundle=bundle, delay_frames=delay, max_frames=frames, mode=mode,
        require_barriers=require_barriers, asked=asked,
    )  # fmt: skip
    said = {"cast_warnings": warnings} if prompt or cast_file else {}
    emit(report | {"strength": strength} | said, as_json, as_lines)
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
@BUNDLE
@JSON
def bench(
    source: str, compare: bool, tune: bool, frames: int | None, plot: Path | None,
    bundle: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure added latency, stage by stage, on SOURCE."""
    from veilcam.camera.bench import format_table, run_bench

    no_telemetry()
    result = run_bench(source, compare=compare, tune=tune, frames=frames, bundle=bundle, plot=plot)
    emit(result, as_json, format_table)


@cli.command(epilog="\b\nExamples:\n  veilcam explain\n  veilcam explain --json")
@JSON
def explain(as_json: bool) -> None:
    """Say what the code carries at each strength: every field, its bits and its epsilon."""
    from veilcam.camera.explain import explain as explain_code
    from veilcam.camera.explain import format_text

    emit(explain_code(), as_json, format_text)


@cli.command(
    epilog="\b\nExamples:\n  veilcam audit face.veil --people photos/ -o report.html\n"
    "  veilcam audit face.veil --quick --json"
)
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--people", type=click.Path(path_type=Path), help="Pictures of people to attack.")
@click.option(
    "--learn-on",
    type=click.Path(path_type=Path),
    help="Other people, to learn on; default: some of --people.",
)
@STRENGTH
@click.option("--clip", type=click.Path(path_type=Path), help="Clip to judge; default: the demo.")
@click.option("--models", type=click.Path(path_type=Path), help="Folder with faceres.onnx.")
@click.option("--public", type=click.Path(path_type=Path), help="Pictures that may be shown.")
@click.option("--members", type=click.Path(path_type=Path), help="Public training pictures.")
@click.option("--non-members", type=click.Path(path_type=Path), help="Like, but not trained on.")
@click.option("--cache", type=click.Path(path_type=Path), help="Arrays of public pictures.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Folder to go on from when interrupted; holds face vectors and coarse faces till the end.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Report, .html")
@click.option(
    "--beside",
    type=click.Path(path_type=Path),
    multiple=True,
    help="JSON of an audit at another strength, to plot beside; repeatable.",
)
@click.option("--quick/--no-quick", default=False, help="Fewer people and frames.")
@JSON
def audit(
    path: Path,
    out: Path | None,
    strength: str,
    beside: tuple[Path, ...],
    quick: bool,
    as_json: bool,
    **where: Path | None,
) -> None:
    """Measure what leaks from BUNDLE, with controls that must fire."""
    from veilcam.camera.audit import AuditOptions
    from veilcam.camera.audit_command import audit as run_it
    from veilcam.camera.audit_command import to_text

    no_telemetry()
    value, code = run_it(
        AuditOptions(bundle=path, strength=strength, is_quick=quick, **where), out, beside
    )
    emit(value, as_json, to_text)
    if code:
        raise click.exceptions.Exit(code)


@cli.command(epilog="\b\nExamples:\n  veilcam doctor\n  veilcam doctor --json")
@BUNDLE
@JSON
def doctor(bundle: Path | None, as_json: bool) -> None:
    """Say what works on this machine, and what to do about the rest."""
    from veilcam.camera.doctor import examine, to_json, to_text

    no_telemetry()
    checks = examine(bundle)
    value = to_json(checks)
    emit(value, as_json, lambda _: to_text(checks))
    if not value["ok"]:
        raise click.exceptions.Exit(2)


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
@JSON
def show(path: Path, as_json: bool) -> None:
    """Show code, training promise, data and files of the bundle at PATH."""
    from veilcam.camera.manifest import load_bundle

    emit(load_bundle(path, mode=None).describe(), as_json, as_lines)


@bundle.command(
    epilog="\b\nExamples:\n  veilcam bundle verify face.veil\n"
    "  veilcam bundle verify face.veil --json"
)
@click.argument("path", type=click.Path(path_type=Path))
@JSON
def verify(path: Path, as_json: bool) -> None:
    """Check hashes, schema and shapes of the bundle at PATH."""
    from veilcam.camera.manifest import load_bundle

    name = load_bundle(path, mode=None).manifest["name"]
    emit({"ok": True, "name": name}, as_json, lambda _: f"{path}: hashes and shapes match")


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
