"""Command `search`: substitutes of a picture for an image search engine."""

from pathlib import Path

import click

from veilcam.camera.cli_imagine import CAST, PROMPT, cast_of
from veilcam.camera.cli_options import BUNDLE, JSON, STRENGTH, emit, no_telemetry


@click.command(
    epilog="\b\nExamples:\n  veilcam search street.jpg -o query.jpg\n"
    "  veilcam search chair.heic -o query.png -n 3 --defeat-matching --json"
)
@click.argument("image", metavar="IMG", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="New picture.")
@click.option("-n", "num", type=click.IntRange(1, 32), default=1, help="Variants: Q-1, Q-2, ...")
@click.option("--mode", type=click.Choice(["face", "scene", "frame"]), default="face")
@click.option(
    "--size", default="medium", help="large (2048 px), medium (1080) or small (640).",
    type=click.Choice(["large", "medium", "small"]),
)  # fmt: skip
@click.option(
    "--defeat-matching/--no-defeat-matching", default=False,
    help="Edit until perceptual hashes of IMG miss it.",
)  # fmt: skip
@click.option(
    "--distance", type=click.FloatRange(0.05, 0.4), default=0.25, show_default=True,
    help="Share of each hash's bits that must differ.",
)  # fmt: skip
@click.option("--models", type=click.Path(path_type=Path), help="Folder with the content net.")
@BUNDLE
@STRENGTH
@PROMPT
@CAST
@JSON
def search(
    image: Path, out: Path, num: int, mode: str, size: str, defeat_matching: bool, distance: float,
    models: Path | None, bundle: Path | None, strength: str, prompt: str | None,
    cast_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a substitute of IMG to search by: what it shows stays, people are replaced."""
    from veilcam.camera.search import SearchOptions, make_queries, to_text
    from veilcam.camera.social import Size

    no_telemetry()
    options = SearchOptions(
        mode=mode, size=Size(size), bundle=bundle, strength=strength, num=num,
        defeats_matching=defeat_matching, distance=distance, models=models,
        cast=cast_of(prompt, cast_file, bundle)[0],
    )  # fmt: skip
    emit(make_queries(image, out, options), as_json, to_text)
