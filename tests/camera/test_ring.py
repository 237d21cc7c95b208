"""The ring: frames cross unchanged, torn ones are seen, raw ones are refused."""

import mmap
import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if not sys.platform.startswith("linux"):
    pytest.skip("shared memory by descriptor needs Linux", allow_module_level=True)

from veilcam.camera import memory
from veilcam.camera.ring import NUM_SLOTS, Geometry, RingReader, RingWriter, TornFrameError
from veilcam.camera.types import _MAKER, Frame, SafeFrame

GEOMETRY = Geometry(24, 40)


def picture(value: int = 0, index: int = 0, reason: str = "", time_s: float = 0.0) -> SafeFrame:
    bgr = np.random.default_rng(value).integers(0, 256, (24, 40, 3), np.uint8)
    return SafeFrame(bgr, index, time_s, reason, _MAKER)


class Shared:
    def __init__(self) -> None:
        self.ring, self.hold = memory.create_memory()
        self.descriptors = [
            self.ring, self.hold, memory.read_only(self.ring), memory.read_only(self.hold)
        ]  # fmt: skip

    def writer(self, epoch: int = 1, geometry: Geometry = GEOMETRY) -> RingWriter:
        return RingWriter(self.ring, self.descriptors[3], geometry, epoch=epoch)

    def reader(self, geometry: Geometry = GEOMETRY) -> RingReader:
        return RingReader(self.descriptors[2], self.hold, geometry)


@pytest.fixture
def shared():
    value = Shared()
    yield value
    for descriptor in value.descriptors:
        os.close(descriptor)


@pytest.fixture(scope="module")
def kept():
    return Shared()


@given(
    value=st.integers(0, 10**6),
    index=st.integers(0, 2**63),
    time_s=st.floats(allow_nan=False, allow_subnormal=False),
    reason=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=120),
)
def test_what_is_written_is_read(kept: Shared, value, index, time_s, reason) -> None:
    writer = kept.writer()
    reader = kept.reader()
    frame = picture(value, index, reason, time_s)
    slot, seq = writer.write(frame)
    found = reader.hold(slot, seq, epoch=1)
    np.testing.assert_array_equal(found.bgr, frame.bgr)
    assert (found.index, found.time_s, found.reason) == (index, time_s, reason)
    assert reader.release()


def test_the_reader_gets_the_memory_itself_and_cannot_write_it(shared: Shared) -> None:
    writer, reader = shared.writer(), shared.reader()
    found = reader.hold(*writer.write(picture()), epoch=1)
    assert not found.bgr.flags.owndata
    assert not found.bgr.flags.writeable
    with pytest.raises(PermissionError):
        mmap.mmap(shared.descriptors[2], GEOMETRY.total_bytes, prot=mmap.PROT_WRITE)


def test_the_memory_can_neither_grow_nor_shrink(shared: Shared) -> None:
    shared.writer()
    for size in (0, 2 * GEOMETRY.total_bytes):
        with pytest.raises(PermissionError):
            os.ftruncate(shared.ring, size)


def test_the_slot_being_looked_at_is_left_alone(shared: Shared) -> None:
    writer, reader = shared.writer(), shared.reader()
    slot, seq = writer.write(picture(1))
    found = reader.hold(slot, seq, epoch=1)
    used = {writer.write(picture(n))[0] for n in range(3 * NUM_SLOTS)}
    assert used == set(range(NUM_SLOTS)) - {slot}
    np.testing.assert_array_equal(found.bgr, picture(1).bgr)
    assert reader.release()


def test_a_frame_that_was_written_over_is_torn(shared: Shared) -> None:
    writer, reader = shared.writer(), shared.reader()
    first = writer.write(picture(1))
    for number in range(NUM_SLOTS):
        writer.write(picture(number))
    with pytest.raises(TornFrameError):
        reader.hold(*first, epoch=1)


def test_a_frame_written_over_while_it_is_shown_is_told_afterwards(shared: Shared) -> None:
    writer, reader = shared.writer(), shared.reader()
    slot, seq = writer.write(picture(1))
    reader.hold(slot, seq, epoch=1)
    writer._seqs[slot][0] += np.uint64(1)  # a writer that does not care
    assert not reader.release()


def test_a_writer_killed_in_the_middle_leaves_no_frame(shared: Shared) -> None:
    writer, reader = shared.writer(), shared.reader()
    slot = writer._claim()
    seq = int(writer._seqs[slot][0])
    for guess in (seq, seq + 1, seq - 1, 0):
        with pytest.raises(TornFrameError):
            reader.hold(slot, guess, epoch=1)
    found = reader.hold(*shared.writer(epoch=2).write(picture(5)), epoch=2)  # the next life
    np.testing.assert_array_equal(found.bgr, picture(5).bgr)


@pytest.mark.parametrize(("slot", "seq"), [(99, 2), (NUM_SLOTS, 2), (0, 3), (0, 10**15)])
def test_slots_that_are_none_are_torn(shared: Shared, slot: int, seq: int) -> None:
    shared.writer().write(picture())
    with pytest.raises(TornFrameError):
        shared.reader().hold(slot, seq, epoch=1)


def test_frames_of_another_life_do_not_count(shared: Shared) -> None:
    where = shared.writer(epoch=1).write(picture())
    with pytest.raises(TornFrameError):
        shared.reader().hold(*where, epoch=2)


def test_raw_frames_and_other_sizes_are_refused(shared: Shared) -> None:
    writer = shared.writer()
    with pytest.raises(Exception, match="SafeFrame"):
        writer.write(Frame(np.zeros((24, 40, 3), np.uint8), 0, 0.0))  # type: ignore[arg-type]
    small = SafeFrame(np.zeros((8, 8, 3), np.uint8), 0, 0.0, "", _MAKER)
    with pytest.raises(ValueError, match="wanted uint8"):
        writer.write(small)
    with pytest.raises(ValueError, match="not for 41x24"):
        shared.writer(geometry=Geometry(24, 41))


def test_a_ring_that_is_not_sealed_or_of_another_size_is_refused(shared: Shared) -> None:
    os.ftruncate(shared.ring, GEOMETRY.total_bytes)
    with pytest.raises(ValueError, match="not what capture announced"):
        shared.reader()
    other = Shared()
    other.writer()
    with pytest.raises(ValueError, match="not what capture announced"):
        other.reader(Geometry(25, 40))
