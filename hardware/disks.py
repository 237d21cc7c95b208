"""Disks of this machine, and why one may not be erased.

What a disk is comes from `lsblk`; the rules are pure functions of it, so that tests can ask them
about any machine. Being mounted, in use, part of the running system, a partition, read-only or too
small can't be overridden. Being built in can, by naming the disk's exact serial number.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilcam.camera.errors import InputError

_COLUMNS = "PATH,TYPE,SIZE,MODEL,VENDOR,SERIAL,RM,HOTPLUG,RO,TRAN,FSTYPE,LABEL,MOUNTPOINTS,LOG-SEC"
_POOLS = ("LVM2_member", "linux_raid_member", "zfs_member", "bcache", "isw_raid_member")
_REMOVABLE_BUSES = ("usb", "mmc", "sdio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A partition, or what lies on one (a RAID, an encrypted or logical volume).

    Attributes:
        path: Device file.
        kind: What `lsblk` calls its type: part, crypt, lvm, raid1, ...
        size: Bytes.
        holds: File system and label, for people.
        mounts: Where it is mounted; `[SWAP]` for swap space.
    """

    path: str
    kind: str
    size: int
    holds: str
    mounts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A block device as a whole.

    Attributes:
        path: Device file.
        kind: disk, loop, or what else `lsblk` says.
        size: Bytes.
        model: Vendor and model, empty where unknown.
        serial: Serial number, empty where unknown.
        is_removable: Card, stick, or on a bus for such.
        is_read_only: Its lock or its kernel refuses writes.
        bus: usb, mmc, nvme, sata, ..., or empty.
        holds: File system or pool directly on it, empty for none.
        mounts: Where the disk itself is mounted.
        volumes: All on it, nested ones too.
        sector_size: Bytes of a logical sector.
    """

    path: str
    kind: str
    size: int
    model: str
    serial: str
    is_removable: bool
    is_read_only: bool
    bus: str
    holds: str
    mounts: tuple[str, ...]
    volumes: tuple[Volume, ...]
    sector_size: int


def list_disks() -> list[Disk]:
    """Every whole disk of this machine, loop devices in use among them.

    Raises:
        InputError: There is no `lsblk` here, or it failed.
    """
    return parse_lsblk(_run_lsblk())


def find_disk(path: Path) -> Disk:
    """The disk of that device file; links such as /dev/disk/by-id/... are followed.

    Raises:
        InputError: It is not a disk as a whole.
    """
    real = str(path.resolve())
    found = {disk.path: disk for disk in list_disks()}
    if real in found:
        return found[real]
    if real.startswith("/dev/loop"):
        raise InputError(f"{path} has no file behind it; attach one with `losetup` first")
    owner = next((d.path for d in found.values() for v in d.volumes if v.path == real), None)
    if owner is not None:
        raise InputError(
            f"{path} is a part of {owner}, wanted a whole disk; name {owner} to erase all of it"
        )
    raise InputError(f"{path} is not a disk of this machine; `veilcam image list` shows them")


def parse_lsblk(text: str) -> list[Disk]:
    """Disks out of `lsblk --json --bytes --output ...`.

    Raises:
        InputError: The text is not what lsblk writes.
    """
    try:
        return [_disk(entry) for entry in json.loads(text)["blockdevices"] if entry.get("size")]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("lsblk answered in an unknown form; update util-linux") from error


def objections(disk: Disk, *, image_size: int, serial: str | None = None) -> list[str]:
    """Why `disk` must not be erased; empty where it may.

    Args:
        disk: The disk.
        image_size: Bytes that must fit.
        serial: The serial number the user typed to name a disk that is built in.
    """
    found: list[str] = []
    if disk.kind not in ("disk", "loop"):
        found.append(f"it is a {disk.kind}, not a whole disk")
    mounts = [*disk.mounts, *(mount for volume in disk.volumes for mount in volume.mounts)]
    if any(_is_system(mount) for mount in mounts):
        found.append(f"this system runs from it (mounted at {', '.join(mounts)})")
    elif mounts:
        found.append(f"it is mounted at {', '.join(mounts)}; unmount it first")
    stacked = [volume.path for volume in disk.volumes if volume.kind != "part"]
    if stacked:
        found.append(f"it is in use by {', '.join(stacked)}; close those first")
    pools = [*(v.path for v in disk.volumes if v.holds.startswith(_POOLS))]
    if disk.holds.startswith(_POOLS) or pools:
        found.append("it belongs to a RAID, a volume group or a pool; take it out of that first")
    if disk.is_read_only:
        found.append("it is read-only; look for the lock on the side of the card")
    if disk.size < image_size:
        found.append(f"it holds {human_size(disk.size)}, the image needs {human_size(image_size)}")
    if serial is not None and serial != disk.serial:
        found.append(f"its serial number is {disk.serial or 'unknown'!r}, not {serial!r}")
    elif serial is None and disk.kind == "disk" and not disk.is_removable:
        found.append(
            "it is built in, not a card or a stick; if you are sure, name it by its serial number "
            f"with --serial {disk.serial}"
            if disk.serial
            else "it is built in and has no serial number to name it by"
        )
    return found


def describe(disk: Disk) -> str:
    """One line: path, size, model, bus, serial number."""
    parts = [disk.path, human_size(disk.size), disk.model or "unknown model", disk.bus]
    return "  ".join([*(part for part in parts if part), f"serial {disk.serial or 'unknown'}"])


def describe_contents(disk: Disk) -> list[str]:
    """A line for each thing on it that writing an image would erase."""
    lines = [f"{v.path}  {human_size(v.size)}  {v.holds or 'unknown contents'}"
             for v in disk.volumes]  # fmt: skip
    if not lines:
        lines = [f"{disk.path}  {disk.holds or 'no partitions'}"]
    return lines


def human_size(size: int) -> str:
    """Bytes as people write them.

    >>> human_size(32_010_928_128), human_size(999)
    ('32.0 GB', '999 B')
    """
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def _is_system(mount: str) -> bool:
    return mount in ("/", "[SWAP]") or mount.startswith(("/boot", "/efi", "/usr", "/var", "/home"))


def _run_lsblk() -> str:
    command = ["lsblk", "--json", "--bytes", "--paths", "--output", _COLUMNS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise InputError("disks are listed by lsblk, which is not here; use Linux") from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"lsblk failed: {error.stderr.strip()}") from error
    return done.stdout


def _disk(entry: dict[str, Any]) -> Disk:
    bus = str(entry.get("tran") or ("mmc" if "/mmcblk" in entry["path"] else ""))
    words = [str(entry.get(key) or "").strip() for key in ("vendor", "model")]
    return Disk(
        path=entry["path"],
        kind=entry["type"],
        size=int(entry["size"]),
        model=" ".join(word for word in words if word),
        serial=str(entry.get("serial") or "").strip(),
        # An eMMC is on the bus of cards but soldered in: only its removable flag counts there.
        is_removable=_is_true(entry["rm"])
        or _is_true(entry["hotplug"])
        or (bus in _REMOVABLE_BUSES and not _is_emmc(entry)),
        is_read_only=_is_true(entry["ro"]),
        bus=bus,
        holds=_holds(entry),
        mounts=_mounts(entry),
        volumes=tuple(_volumes(entry)),
        sector_size=int(entry.get("log-sec") or 512),
    )


def _is_emmc(entry: dict[str, Any]) -> bool:
    """An eMMC has boot areas of its own beside it."""
    return Path(f"{entry['path']}boot0").exists()


def _volumes(entry: dict[str, Any]) -> Iterator[Volume]:
    for child in entry.get("children", ()):
        yield Volume(
            path=child["path"],
            kind=child["type"],
            size=int(child["size"] or 0),
            holds=_holds(child),
            mounts=_mounts(child),
        )
        yield from _volumes(child)


def _holds(entry: dict[str, Any]) -> str:
    return " ".join(str(entry[key]) for key in ("fstype", "label") if entry.get(key))


def _mounts(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(mount) for mount in entry.get("mountpoints") or () if mount)


def _is_true(value: object) -> bool:
    return value in (True, 1, "1")
