"""Which disks may be erased: the rules, asked about machines of many kinds."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera.errors import InputError
from veilcam.hardware.disks import Disk, describe, describe_contents, objections, parse_lsblk

GIB = 1 << 30


def entry(path: str = "/dev/sdx", **changes: Any) -> dict[str, Any]:
    """A USB stick as lsblk tells of it."""
    values = {
        "path": path, "type": "disk", "size": 8 * GIB, "model": "Stick ", "vendor": "Acme    ",
        "serial": "S123", "rm": True, "hotplug": True, "ro": False, "tran": "usb",
        "fstype": None, "label": None, "mountpoints": [None], "log-sec": 512,
    }  # fmt: skip
    return values | {key.replace("_", "-"): value for key, value in changes.items()}


def disk(**changes: Any) -> Disk:
    (found,) = parse_lsblk(json.dumps({"blockdevices": [entry(**changes)]}))
    return found


def part(path: str = "/dev/sdx1", **changes: Any) -> dict[str, Any]:
    return entry(path, **({"type": "part"} | changes))


def test_a_stick_may_be_erased() -> None:
    assert objections(disk(), image_size=GIB) == []
    assert describe(disk()) == "/dev/sdx  8.6 GB  Acme Stick  usb  serial S123"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "part"}, "not a whole disk"),
        ({"type": "rom"}, "not a whole disk"),
        ({"type": "crypt"}, "not a whole disk"),
        ({"ro": True}, "read-only"),
        ({"size": GIB - 1}, "the image needs"),
        ({"mountpoints": ["/media/me"]}, "mounted at /media/me"),
        ({"children": [part(mountpoints=["/media/me"])]}, "mounted at /media/me"),
        ({"children": [part(mountpoints=["/"])]}, "this system runs from it"),
        ({"children": [part(mountpoints=["[SWAP]"])]}, "this system runs from it"),
        ({"children": [part(mountpoints=[None, "/boot/efi"])]}, "this system runs from it"),
        ({"children": [part(children=[entry("/dev/dm-0", type="crypt")])]}, "in use by /dev/dm-0"),
        ({"children": [part(fstype="LVM2_member")]}, "volume group"),
        ({"fstype": "zfs_member"}, "pool"),
        ({"rm": False, "hotplug": False, "tran": "nvme"}, "--serial S123"),
        ({"rm": False, "hotplug": False, "tran": None, "serial": None}, "no serial number"),
    ],
)
def test_what_must_not_be_erased_is_refused(changes: dict[str, Any], message: str) -> None:
    (why,) = objections(disk(**changes), image_size=GIB)
    assert message in why


def test_deep_down_a_root_volume_counts() -> None:
    root = entry("/dev/dm-1", type="lvm", mountpoints=["/"])
    luks = entry("/dev/dm-0", type="crypt", fstype="LVM2_member", children=[root])
    found = objections(disk(children=[part(children=[luks])]), image_size=GIB)
    assert any("this system runs from it" in why for why in found)


def test_only_the_exact_serial_forces_a_disk_that_is_built_in() -> None:
    built_in = disk(rm=False, hotplug=False, tran="sata")
    assert objections(built_in, image_size=GIB, serial="S123") == []
    for wrong in ("s123", "S12", "S1234", ""):
        assert objections(built_in, image_size=GIB, serial=wrong)


@given(
    is_removable=st.booleans(), mount=st.sampled_from(["/", "/home", "/media/x", "[SWAP]"]),
    serial=st.sampled_from([None, "S123"]),
)  # fmt: skip
def test_nothing_forces_a_mounted_disk(is_removable: bool, mount: str, serial: str | None) -> None:
    mounted = disk(rm=is_removable, hotplug=is_removable, children=[part(mountpoints=[mount])])
    assert any("mounted" in why for why in objections(mounted, image_size=1, serial=serial))


def test_what_would_be_erased_is_listed() -> None:
    full = disk(children=[part(fstype="ext4", label="photos", size=GIB)])
    assert describe_contents(full) == ["/dev/sdx1  1.1 GB  ext4 photos"]
    assert describe_contents(disk()) == ["/dev/sdx  no partitions"]


def test_older_lsblk_writes_flags_as_digits_and_sizes_as_text() -> None:
    old = disk(rm="1", hotplug="1", ro="0", size=str(8 * GIB))
    assert old.is_removable
    assert not old.is_read_only
    assert old.size == 8 * GIB


@pytest.mark.parametrize("text", ["", "{}", '{"blockdevices": [{"size": 1}]}', "[]"])
def test_an_unknown_answer_of_lsblk_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="unknown form"):
        parse_lsblk(text)


def test_an_empty_card_reader_is_no_disk() -> None:
    assert parse_lsblk(json.dumps({"blockdevices": [entry(size=0)]})) == []
