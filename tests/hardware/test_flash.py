"""Writing images: what arrives is what was meant, and what differs is found."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from veilcam.camera.errors import ConfigError, InputError, SinkError, VeilcamError
from veilcam.hardware import flash
from veilcam.hardware.flash_command import bar, verify
from veilcam.hardware.flash_command import flash as flash_image

SMALL_CHUNK = 16 << 10
SHARED = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def never_asked(_text: str) -> str:
    raise AssertionError("nobody should be asked")


def picture_of_a_disk(size: int, seed: int = 0) -> bytes:
    """Bytes that look like a disk with a partition table."""
    data = bytearray(hashlib.shake_128(f"{size} {seed}".encode()).digest(size))
    data[510:512] = b"\x55\xaa"
    return bytes(data)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "CHUNK", SMALL_CHUNK)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "veilcam.img"
    path.write_bytes(picture_of_a_disk(3 * SMALL_CHUNK + 777))
    return path


@pytest.mark.usefixtures("small_chunks")
@SHARED
@given(size=st.integers(512, 5 * SMALL_CHUNK), junk=st.integers(0, 7 * SMALL_CHUNK))
def test_any_size_arrives_whole_whatever_was_there(tmp_path: Path, size: int, junk: int) -> None:
    source, target = tmp_path / "a.img", tmp_path / "b.img"
    source.write_bytes(data := picture_of_a_disk(size))
    target.write_bytes(b"\xee" * junk)
    digest = flash.write_image(source, target, quiet)
    assert target.read_bytes() == data
    assert (digest.size, digest.sha256) == (size, hashlib.sha256(data).hexdigest())


@pytest.mark.usefixtures("small_chunks")
@SHARED
@given(data=st.data(), size=st.integers(512, 4 * SMALL_CHUNK))
def test_any_changed_byte_is_found_and_its_place_told(
    tmp_path: Path, data: st.DataObject, size: int
) -> None:
    source = tmp_path / "a.img"
    source.write_bytes(whole := picture_of_a_disk(size))
    digest = flash.hash_of(source, quiet)
    place, bits = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(whole)
    changed[place] ^= bits
    source.write_bytes(changed)
    piece = place // SMALL_CHUNK * SMALL_CHUNK
    with pytest.raises(SinkError, match=f"from byte {piece};"):
        flash.compare(source, digest, quiet)


@pytest.mark.usefixtures("small_chunks")
def test_more_on_the_device_than_the_image_holds_is_no_difference(image: Path) -> None:
    digest = flash.hash_of(image, quiet)
    image.write_bytes(image.read_bytes() + b"rest of the card")
    flash.compare(image, digest, quiet)


def test_a_device_that_ends_too_early_is_found(image: Path) -> None:
    digest = flash.hash_of(image, quiet)
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(SinkError, match=r"differs|ends at"):
        flash.compare(image, digest, quiet)


@pytest.mark.usefixtures("small_chunks")
def test_a_byte_lost_on_the_way_fails_and_keeps_what_was_there(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(descriptor: int, view: memoryview, start: int) -> None:
        if start >= SMALL_CHUNK and len(view) > 100:
            view[99] ^= 1
        write(descriptor, view, start)

    write = flash._pwrite
    monkeypatch.setattr(flash, "_pwrite", lossy)
    target = tmp_path / "card"
    target.write_bytes(b"before")
    with pytest.raises(SinkError, match="differs from the image"):
        flash.write_image(image, target, quiet)
    assert target.read_bytes() == b"before"
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_disk_has_no_partition_table(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PulledOutError(Exception):
        pass

    def pulled(descriptor: int, view: memoryview, start: int) -> None:
        if start >= 2 * SMALL_CHUNK:
            raise PulledOutError
        write(descriptor, view, start)

    write = flash._pwrite
    monkeypatch.setattr(flash, "_pwrite", pulled)
    target = tmp_path / "card"
    target.write_bytes(picture_of_a_disk(4 * SMALL_CHUNK, seed=1))
    descriptor = flash.os.open(target, flash.os.O_RDWR)
    with image.open("rb") as source, pytest.raises(PulledOutError):
        flash._copy(source.fileno(), descriptor, image.stat().st_size, quiet)
    flash.os.close(descriptor)
    assert target.read_bytes()[:4096] == bytes(4096)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no partition table"),
        (b"hello", "no partition table"),
        (b"\xfd7zXZ" + bytes(2000), "unxz"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), "unzstd"),
        (b"\x1f\x8b" + bytes(2000), "gunzip"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (path := tmp_path / "x.img").write_bytes(content)
    with pytest.raises(InputError, match=message):
        flash.check_image(path)


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        flash.check_image(tmp_path / "none.img")


def test_the_image_is_not_written_onto_itself(image: Path) -> None:
    before = image.read_bytes()
    with pytest.raises(InputError, match="the image itself"):
        flash.write_image(image, image, quiet)
    assert image.read_bytes() == before


def test_a_damaged_image_is_refused_before_anything_is_erased(image: Path, tmp_path: Path) -> None:
    image.with_name(f"{image.name}.sha256").write_text(f"{'0' * 64}  {image.name}\n")
    (card := tmp_path / "card").write_bytes(b"before")
    with pytest.raises(InputError, match="damaged"):
        flash_image(image, card, serial=None, is_sure=True, progress=quiet, ask=never_asked)
    assert card.read_bytes() == b"before"


def test_verify_needs_something_to_compare_with(image: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted it or a DEVICE"):
        verify(image, None, quiet)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    image.with_name(f"{image.name}.sha256").write_text(f"{digest}  {image.name}\n")
    assert verify(image, None, quiet)["sha256"] == digest
    (card := tmp_path / "card").write_bytes(image.read_bytes() + bytes(999))
    assert verify(image, card, quiet)["verified"]


@pytest.mark.parametrize("name", ["/dev/null", "/dev/none-such"])
def test_a_name_in_dev_that_is_no_disk_is_refused(image: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a disk"):
        flash_image(image, Path(name), serial=None, is_sure=True, progress=quiet, ask=never_asked)


def test_the_disk_this_system_runs_from_is_refused(image: Path) -> None:
    disk = root_disk()
    with pytest.raises(InputError, match=r"this system runs from it|part of"):
        flash_image(image, disk, serial=None, is_sure=True, progress=quiet, ask=never_asked)


def root_disk() -> Path:
    """The block device of `/`, where it has one."""
    major, minor = divmod(Path("/").stat().st_dev, 256)
    node = Path(f"/sys/dev/block/{major}:{minor}")
    if not node.exists():
        pytest.skip("the root of this system is on no block device")
    path = Path("/dev") / node.resolve().name
    if not path.exists():
        pytest.skip(f"{path} is not visible here")
    return path


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    (backing := tmp_path / "backing").write_bytes(b"\xee" * (9 * SMALL_CHUNK))
    command = ["losetup", "--find", "--show", str(backing)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop devices here ({type(error).__name__}); run as root")
    device = Path(done.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_a_loop_device_is_written_after_its_name_was_typed(image: Path, loop_device: Path) -> None:
    texts: list[str] = []

    def agree(text: str) -> str:
        texts.append(text)
        return str(loop_device)

    report = flash_image(image, loop_device, serial=None, is_sure=False, progress=quiet, ask=agree)
    data = image.read_bytes()
    written = loop_device.read_bytes()
    assert written[: len(data)] == data
    assert written[len(data) :] == bytes(len(written) - len(data)), "an old table could lie there"
    assert "erased" in texts[0]
    assert report["verified"]
    assert verify(image, loop_device, quiet)["verified"]


def test_without_the_right_name_nothing_is_written(image: Path, loop_device: Path) -> None:
    with pytest.raises(ConfigError, match="nothing was written"):
        flash_image(
            image, loop_device, serial=None, is_sure=False, progress=quiet, ask=lambda _: "yes"
        )
    assert set(loop_device.read_bytes()) == {0xEE}


def test_a_mounted_loop_device_is_refused(image: Path, loop_device: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(loop_device)], check=False)
    (place := tmp_path / "mnt").mkdir()
    if subprocess.run(["mount", str(loop_device), str(place)], stderr=-3).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(InputError, match="is mounted at"):
            flash_image(
                image, loop_device, serial=None, is_sure=True, progress=quiet, ask=never_asked
            )
        with pytest.raises(VeilcamError, match="cannot be written"):  # the kernel's own lock
            flash.write_image(image, loop_device, quiet)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_too_small_is_refused(loop_device: Path, tmp_path: Path) -> None:
    (image := tmp_path / "big.img").write_bytes(picture_of_a_disk(10 * SMALL_CHUNK))
    with pytest.raises(InputError, match="the image needs"):
        flash_image(image, loop_device, serial=None, is_sure=True, progress=quiet, ask=never_asked)


def test_progress_reaches_the_end(image: Path, tmp_path: Path) -> None:
    class Pipe:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return False

    pipe = Pipe()
    flash.write_image(image, tmp_path / "card", bar(pipe))
    assert "writing" in pipe.text
    assert pipe.text.rstrip().splitlines()[-1].startswith("checking")
    assert "100%" in pipe.text.splitlines()[-1]
