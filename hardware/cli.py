"""Commands for the bootable camera: `image ...` and `flash`."""

import sys
from pathlib import Path

import click

from veilcam.camera.cli_options import JSON, as_lines, emit
from veilcam.camera.errors import ConfigError

_PATH = click.Path(path_type=Path)


@click.group(
    epilog="\b\nExamples:\n  veilcam image build --board x86-64-uefi -o veilcam.img\n"
    "  veilcam image flash veilcam.img /dev/sdX"
)
def image() -> None:
    """Build, set up, write and check a bootable camera."""


def _ask(text: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError("nobody is here to be asked; say --yes to erase without a question")
    return str(click.prompt(text, default="", show_default=False, err=True))


@click.command(
    "flash",
    epilog="\b\nExamples:\n  veilcam flash veilcam.img /dev/sdX\n"
    "  veilcam flash veilcam.img /dev/nvme0n1 --serial S4EWNX0R123456",
)
@click.argument("img", type=_PATH)
@click.argument("device", type=_PATH)
@click.option("--serial", default=None, help="Serial number of a disk that is built in.")
@click.option("--yes/--no-yes", "is_sure", default=False, help="Erase without a question.")
@JSON
def flash(img: Path, device: Path, serial: str | None, is_sure: bool, as_json: bool) -> None:
    """Write IMG to DEVICE (a whole disk, or a file), then read it back and compare.

    Mounted disks, the running system's own, partitions and disks too small are refused; a disk
    that is built in is, too, unless its exact --serial is given.
    """
    from veilcam.hardware.flash_command import bar
    from veilcam.hardware.flash_command import flash as flash_it

    report = flash_it(
        img, device, serial=serial, is_sure=is_sure, ask=_ask, progress=_quiet if as_json else bar()
    )
    emit(report, as_json, as_lines)


@image.command(
    "verify",
    epilog="\b\nExamples:\n  veilcam image verify veilcam.img\n"
    "  veilcam image verify veilcam.img /dev/sdX",
)
@click.argument("img", type=_PATH)
@click.argument("device", type=_PATH, required=False)
@JSON
def verify(img: Path, device: Path | None, as_json: bool) -> None:
    """Check IMG against its .sha256, or compare DEVICE with IMG byte by byte."""
    from veilcam.hardware.flash_command import bar
    from veilcam.hardware.flash_command import verify as verify_it

    emit(verify_it(img, device, _quiet if as_json else bar()), as_json, as_lines)


@image.command("list", epilog="\b\nExamples:\n  veilcam image list\n  veilcam image list --json")
@JSON
def list_command(as_json: bool) -> None:
    """Show the disks of this machine, and which of them may be erased."""
    from veilcam.hardware.flash_command import candidates, candidates_text

    emit(candidates(), as_json, candidates_text)


@image.command(
    "build",
    epilog="\b\nExamples:\n  veilcam image build --board x86-64-uefi -o veilcam.img\n"
    "  veilcam image build -o veilcam.img --image-version 1.2.0 --public-key updates.gpg",
)
@click.option("--board", default="x86-64-uefi", show_default=True, help="See `image boards`.")
@click.option("-o", "--out", type=_PATH, required=True, help="The image.")
@click.option("--image-version", "version", default=None, help="Default: the package's.")
@click.option("--work", type=_PATH, default=None, help="Tools and caches; default: ~/.cache.")
@click.option("--mirror", default="http://deb.debian.org", show_default=True)
@click.option("--public-key", type=_PATH, help="Key ring of who may sign updates.")
@JSON
def build(
    board: str, out: Path, version: str | None, work: Path | None, mirror: str,
    public_key: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Build a disk image that starts, finds its camera and serves the page.

    Beside it: .sha256, a bill of materials (.cdx.json), and .update/ for an update server.
    """
    from importlib.metadata import version as version_of

    from veilcam.hardware.build import BuildOptions, build_image, default_work, project_epoch
    from veilcam.hardware.device_tree import find_project

    options = BuildOptions(
        board=board, version=version or version_of("veilcam"), work=work or default_work(),
        mirror=mirror.rstrip("/"), public_key=public_key, epoch=project_epoch(find_project()),
    )  # fmt: skip
    emit(build_image(out, options, lambda text: click.echo(text, err=True)), as_json, as_lines)


@image.command(
    "boards", epilog="\b\nExamples:\n  veilcam image boards\n  veilcam image boards --json"
)
@JSON
def boards(as_json: bool) -> None:
    """Show the boards we know, and what of them was never run."""
    from dataclasses import asdict

    from veilcam.hardware.boards import board_names, load_board

    emit({name: asdict(load_board(name)) for name in board_names()}, as_json, as_lines)


@image.command(
    "customize",
    epilog="\b\nExamples:\n  veilcam image customize veilcam.img --set name=door "
    "--set strength=strict\n  veilcam image customize veilcam.img --set wifi_ssid=home "
    "--wifi-password-file wifi.txt",
)
@click.argument("img", type=_PATH)
@click.option("--settings", "settings_file", type=_PATH, help="A veilcam.toml to take.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="One setting; repeatable.")
@click.option("--secrets", "secrets_file", type=_PATH, help="A secrets.toml to take.")
@click.option("--wifi-password-file", type=_PATH, help="Its first line.")
@click.option("--password-file", type=_PATH, help="Of the page.")
@click.option("--stream-password-file", type=_PATH, help="Of RTSP.")
@JSON
def customize(
    img: Path, settings_file: Path | None, sets: tuple[str, ...], secrets_file: Path | None,
    wifi_password_file: Path | None, password_file: Path | None,
    stream_password_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write name, Wi-Fi, SSH key, mode, strength, time zone and the like into IMG.

    IMG is an image or a card's device file. The same settings lie on its first partition in
    veilcam.toml, which any computer can edit.
    """
    from veilcam.hardware.customize import customize as customize_it
    from veilcam.hardware.customize import gather_secrets

    pairs = [entry.partition("=") for entry in sets]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise ConfigError(f"--set {wrong[0]}: wanted KEY=VALUE, as name=door")
    secrets = gather_secrets(secrets_file, wifi_password_file, password_file, stream_password_file)
    assignments = {key.strip(): value for key, _, value in pairs}
    report = customize_it(
        img, settings_file=settings_file, assignments=assignments, secrets=secrets
    )
    emit(report, as_json, as_lines)


def _quiet(_what: str, _done: int, _total: int) -> None:
    """No progress: with --json nobody looks."""


image.add_command(flash)
