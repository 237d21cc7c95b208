"""Kernels that a cut-off update left: removed, and no other."""

from pathlib import Path

import pytest

from veilcam.hardware.leftovers import remove_passed_over, running_version


def kernels(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("name", ["veilcam_1.0.2+2-0.efi", "veilcam_1.0.2+2.efi"])
def test_an_update_that_was_never_tried_is_removed_once_another_version_started(
    tmp_path: Path, name: str
) -> None:
    folder = kernels(tmp_path, "veilcam_1.0.1.efi", name)
    assert remove_passed_over(folder, "1.0.1") == (name,)
    assert [path.name for path in folder.iterdir()] == ["veilcam_1.0.1.efi"]


@pytest.mark.parametrize(
    ("running", "names"),
    [
        ("1.0.2", ("veilcam_1.0.1.efi", "veilcam_1.0.2+1-1.efi")),  # being tried now
        ("1.0.2", ("veilcam_1.0.1.efi", "veilcam_1.0.2+2-0.efi")),  # started by hand
        ("1.0.1", ("veilcam_1.0.1.efi", "veilcam_1.0.2+0-2.efi")),  # tried, and given up
        ("1.0.1", ("veilcam_1.0.1.efi", "veilcam_1.0.2+1-1.efi")),  # tried once, broke off
        ("1.0.1", ("veilcam_1.0.1.efi", "veilcam_1.0.0.efi", "other_1+2-0.efi")),
    ],
)
def test_every_other_kernel_stays(tmp_path: Path, running: str, names: tuple[str, ...]) -> None:
    folder = kernels(tmp_path, *names)
    assert remove_passed_over(folder, running) == ()
    assert {path.name for path in folder.iterdir()} == set(names)


def test_the_running_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text('ID=debian\nIMAGE_VERSION="1.0.1"\n')
    assert running_version(tmp_path / "os-release") == "1.0.1"
    assert running_version(tmp_path / "none") == ""
