"""Commands for pictures: `album`, `social`, `verify`."""

import logging
from pathlib import Path

import click

from veilcam.camera.cli_imagine import CAST, PROMPT, cast_of
from veilcam.camera.cli_options import BUNDLE, JSON, STRENGTH, as_lines, emit

_log = logging.getLogger(__name__)


@click.command(
    epilog="\b\nExamples:\n  veilcam album Pictures/2026 Shareable\n"
    "  veilcam album Pictures/2026 Shareable --jobs 4 --json"
)
@click.argument("folder", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--mode", type=click.Choice(["face", "scene", "frame"]), default="face")
@BUNDLE
@STRENGTH
@PROMPT
@CAST
@click.option(
    "--consistent/--no-consistent", default=False,
    help="One stand-in for all pictures of a person, by a recognizer, in one process.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes; default: cores.")
@click.option("--ray", metavar="ADDRESS", default="", help="Work on a Ray cluster, or `local`.")
@click.option("--errors", type=click.Path(path_type=Path), help="Table; default: OUT-errors.csv")
@click.option("--overwrite/--no-overwrite", default=False, help="OUT may hold other files.")
@JSON
def album(
    folder: Path, out: Path, mode: str, bundle: Path | None, strength: str, prompt: str | None,
    cast_file: Path | None, consistent: bool, jobs: int | None, ray: str,
    errors: Path | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a shareable twin of the folder IN: people replaced, metadata gone, names kept."""
    from veilcam.camera.album import AlbumOptions, default_jobs, run_album, say_on_stderr, to_text

    options = AlbumOptions(
        mode=mode, bundle=bundle, strength=strength, errors=errors, overwrite=overwrite,
        jobs=jobs or (1 if consistent else default_jobs()), is_consistent=consistent, ray=ray,
        cast=cast_of(prompt, cast_file, bundle)[0],
    )  # fmt: skip
    report = run_album(folder, out, options, say_on_stderr)
    emit(report, as_json, to_text)
    if report["errors"]:
        raise click.exceptions.Exit(2)


@click.command(
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
@BUNDLE
@STRENGTH
@PROMPT
@CAST
@click.option("--credentials/--no-credentials", default=True, help="Sign by C2PA.")
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM chain to sign with.")
@click.option("--key", type=click.Path(path_type=Path), help="Its PEM key.")
@click.option("--watermark/--no-watermark", default=False, help="An invisible mark in the pixels.")
@JSON
def social(
    image: Path, out: Path, mode: str, size: str, bundle: Path | None, strength: str,
    prompt: str | None, cast_file: Path | None, credentials: bool, certificate: Path | None,
    key: Path | None, watermark: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a substitute of IMG for upload: people replaced, marked as made by a program."""
    from veilcam.camera.social import Size, SocialOptions, make_substitute

    options = SocialOptions(
        mode=mode, size=Size(size), bundle=bundle, strength=strength,
        has_credentials=credentials, certificate=certificate, key=key,
        has_watermark=watermark, cast=cast_of(prompt, cast_file, bundle)[0],
    )  # fmt: skip
    report = make_substitute(image, out, options)
    if report["credentials"] is None:
        _log.warning("no content credentials: %s", report["no_credentials_because"])
    emit(report, as_json, as_lines)


@click.command(
    "verify",
    epilog="\b\nExamples:\n  veilcam verify upload.jpg\n  veilcam verify upload.jpg --json",
)
@click.argument("path", metavar="PICTURE", type=click.Path(path_type=Path))
@click.option("--watermark/--no-watermark", default=False, help="Look for the invisible mark, too.")
@JSON
def verify_picture(path: Path, watermark: bool, as_json: bool) -> None:
    """Show the content credentials of PICTURE; exit 2 where it has none or was changed."""
    from veilcam.camera.social import to_text
    from veilcam.camera.social import verify as verify_it

    value = verify_it(path, has_watermark=watermark)
    emit(value, as_json, to_text)
    if not value["is_valid"]:
        raise click.exceptions.Exit(2)
