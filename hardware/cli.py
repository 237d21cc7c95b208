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


def _quiet(_what: str, _done: int, _total: int) -> None:
    """No progress: with --json nobody looks."""


image.add_command(flash)
