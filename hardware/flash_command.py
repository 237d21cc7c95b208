"""`veilcam image flash`, `verify` and `list`: what is asked and told around writing a disk."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError, InputError
from veilcam.hardware.disks import (
    Disk,
    describe,
    describe_contents,
    find_disk,
    human_size,
    list_disks,
    objections,
)
from veilcam.hardware.flash import Progress, check_image, compare, hash_of, write_image

_BAR = 30


def flash(
    image: Path, target: Path, *, serial: str | None, is_sure: bool, progress: Progress,
    ask: Callable[[str], str],
) -> dict[str, Any]:  # fmt: skip
    """Writes `image` to `target` after all checks; the report.

    Args:
        image: Disk image.
        target: Device file of a whole disk, or a plain file.
        serial: Exact serial number of a disk that is built in.
        is_sure: Don't ask.
        progress: Told after each piece.
        ask: Shows a text and returns what the user types; it must be the device's name.

    Raises:
        InputError: The image or the disk can't be used.
        ConfigError: The user did not say yes.
    """
    size = check_image(image)
    wanted = _check_sum(image, progress)
    disk = _choose(target, size, serial)
    if disk is not None and not is_sure:
        _confirm(disk, ask)
    digest = write_image(image, target, progress)
    if wanted not in (None, digest.sha256):
        raise InputError(f"image {image} was changed while it was written; write it again")
    return {
        "image": str(image),
        "device": str(target),
        "model": disk.model if disk else "",
        "bytes": digest.size,
        "sha256": digest.sha256,
        "verified": True,
    }


def verify(image: Path, target: Path | None, progress: Progress) -> dict[str, Any]:
    """Checks an image against its `.sha256`, or a written disk against the image.

    Raises:
        InputError: There is nothing to check against, or the image is damaged.
        SinkError: The disk differs.
    """
    check_image(image)
    wanted = _listed_sum(image)
    if wanted is None and target is None:
        raise InputError(f"{image}.sha256 is not there, wanted it or a DEVICE to compare with")
    digest = hash_of(image, progress)
    if wanted not in (None, digest.sha256):
        raise InputError(f"image {image} is damaged: its sha256 is not the one listed; get it anew")
    if target is not None:
        compare(target, digest, progress)
    return {
        "image": str(image),
        "device": str(target or ""),
        "bytes": digest.size,
        "sha256": digest.sha256,
        "matches_list": wanted is not None,
        "verified": True,
    }


def candidates() -> dict[str, Any]:
    """Every disk with what keeps it from being erased."""
    return {
        "disks": [
            {
                "path": disk.path,
                "model": disk.model,
                "size": disk.size,
                "serial": disk.serial,
                "bus": disk.bus,
                "can_be_erased": not (why := objections(disk, image_size=0)),
                "because": why,
                "text": describe(disk),
            }
            for disk in list_disks()
        ]
    }


def candidates_text(value: dict[str, Any]) -> str:
    """The same for people: those that may be erased first."""
    disks = sorted(value["disks"], key=lambda disk: not disk["can_be_erased"])
    lines = []
    for disk in disks:
        lines.append(f"{'yes' if disk['can_be_erased'] else 'no '}  {disk['text']}")
        lines += [f"       {reason}" for reason in disk["because"]]
    return "\n".join(lines or ["no disks found"])


def bar(stream: Any = None) -> Progress:
    """A progress bar on stderr: redrawn on a terminal, a line every tenth elsewhere."""
    out = stream or sys.stderr
    last = {"what": "", "tenth": -1}

    def tell(what: str, done: int, total: int) -> None:
        share = done / total if total else 1.0
        filled = round(_BAR * share)
        text = (
            f"{what:9} [{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%} of {human_size(total)}"
        )
        if out.isatty():
            out.write(f"\r{text}" + ("\n" if done >= total else ""))
        elif (what, int(share * 10)) != (last["what"], last["tenth"]):
            out.write(f"{text}\n")
        last.update(what=what, tenth=int(share * 10))
        out.flush()

    return tell


def _choose(target: Path, size: int, serial: str | None) -> Disk | None:
    """The disk to erase, None for a plain file."""
    if not target.is_block_device():
        if str(target.absolute()).startswith("/dev/"):
            raise InputError(f"{target} is not a disk; `veilcam image list` shows them")
        if target.is_dir() or not target.absolute().parent.is_dir():
            raise InputError(f"{target} can't be written; name a disk, or a file in a folder")
        return None
    disk = find_disk(target)
    if why := objections(disk, image_size=size, serial=serial):
        raise InputError(f"{disk.path} ({describe(disk)}) is not erased: {'; '.join(why)}")
    return disk


def _confirm(disk: Disk, ask: Callable[[str], str]) -> None:
    contents = "\n".join(f"  {line}" for line in describe_contents(disk))
    text = f"{describe(disk)}\nAll of this will be erased:\n{contents}\nType {disk.path} to go on"
    if ask(text).strip() != disk.path:
        raise ConfigError(f"nothing was written: {disk.path} was not confirmed")


def _listed_sum(image: Path) -> str | None:
    """From `IMAGE.sha256`, as sha256sum writes it."""
    path = image.with_name(f"{image.name}.sha256")
    if not path.is_file():
        return None
    words = path.read_text(errors="replace").split()
    if not words or len(words[0]) != hashlib.sha256().digest_size * 2:
        raise InputError(f"{path} holds no sha256; get it anew")
    return words[0].lower()


def _check_sum(image: Path, progress: Progress) -> str | None:
    """The listed sum, None without a list. An image must match before anything is erased."""
    wanted = _listed_sum(image)
    if wanted is not None and hash_of(image, progress).sha256 != wanted:
        raise InputError(f"image {image} is damaged: its sha256 is not the one listed; get it anew")
    return wanted
