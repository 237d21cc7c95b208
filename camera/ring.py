"""Safe frames from one process to another through shared memory: one copy in, none out.

One writer, one reader. A slot's sequence number is odd while it is written (a seqlock), so a frame
that was torn, by a slow reader or a writer killed in the middle, is seen and dropped. The reader
says in a page of its own which slot it looks at; the writer goes round that slot, so what a sink is
being handed stays still. The writer never waits here: whoever must not lose a frame counts
`control.Taken`. Memory is sealed against growing and shrinking, and the reader's map is read-only.
"""

import math
import mmap
import os
import struct
import time
from dataclasses import dataclass

import numpy as np

from veilcam.camera.memory import PAGE, add_seals, is_sealed
from veilcam.camera.types import _MAKER, SafeFrame

NUM_SLOTS = 4
_MAGIC = 0x4C494556
_LAYOUT = struct.Struct("<IIII")  # magic, height, width, number of slots
_SLOT = struct.Struct("<QQQdQH128s")  # seq, epoch, index, time_s, handed_ns, length, reason


class TornFrameError(Exception):
    """The slot was rewritten, or never finished: there is nothing to show."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things are in the ring."""

    height: int
    width: int

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot, whole pages."""
        return PAGE * (1 + math.ceil(self.height * self.width * 3 / PAGE))

    @property
    def total_bytes(self) -> int:
        """Bytes of the ring."""
        return PAGE + NUM_SLOTS * self.slot_bytes


def _layout(geometry: Geometry) -> tuple[int, int, int, int]:
    return _MAGIC, geometry.height, geometry.width, NUM_SLOTS


class RingWriter:
    """Capture's end.

    Args:
        ring: Descriptor of the ring, read-write; empty, or of this very geometry.
        hold: Descriptor of the reader's page.
        geometry: Size of every frame.
        epoch: Which life of the capture process this is.

    Raises:
        ValueError: The ring has frames of another size.
    """

    def __init__(self, ring: int, hold: int, geometry: Geometry, *, epoch: int) -> None:
        is_new = os.fstat(ring).st_size == 0
        if is_new:
            os.ftruncate(ring, geometry.total_bytes)
            add_seals(ring)
        if os.fstat(ring).st_size != geometry.total_bytes:
            raise ValueError(f"the ring is not for {geometry.width}x{geometry.height}")
        self._memory = mmap.mmap(ring, geometry.total_bytes)
        if not is_new and _LAYOUT.unpack_from(self._memory) != _layout(geometry):
            raise ValueError(f"the ring is not for {geometry.width}x{geometry.height}")
        self._hold = np.frombuffer(mmap.mmap(hold, PAGE, prot=mmap.PROT_READ), np.uint64)
        _LAYOUT.pack_into(self._memory, 0, *_layout(geometry))
        self._geometry, self._epoch, self._last = geometry, epoch, -1
        starts = [PAGE + n * geometry.slot_bytes for n in range(NUM_SLOTS)]
        self._starts = starts
        self._seqs = [np.frombuffer(self._memory, np.uint64, 1, at) for at in starts]
        for seq in self._seqs:  # a slot that a killed writer left odd
            seq[0] += seq[0] & np.uint64(1)

    def write(self, frame: SafeFrame) -> tuple[int, int]:
        """Copies the frame in; slot and sequence number to tell the reader.

        Raises:
            TypeError: It is no SafeFrame.
            ValueError: It has another size or type than agreed.
        """
        handed_ns = time.perf_counter_ns()
        if not isinstance(frame, SafeFrame):
            raise TypeError(f"the ring takes SafeFrame only, got {type(frame).__name__}")
        size = (self._geometry.height, self._geometry.width, 3)
        if frame.bgr.shape != size or frame.bgr.dtype != np.uint8:
            raise ValueError(f"frame is {frame.bgr.dtype} {frame.bgr.shape}, wanted uint8 {size}")
        slot = self._claim()
        start, seq = self._starts[slot], int(self._seqs[slot][0])
        reason = frame.reason.encode()[:128]
        _SLOT.pack_into(
            self._memory, start, seq, self._epoch, frame.index, frame.time_s, handed_ns,
            len(reason), reason,
        )  # fmt: skip
        pixels = np.frombuffer(self._memory, np.uint8, frame.bgr.size, start + PAGE)
        np.copyto(pixels.reshape(size), frame.bgr)
        self._seqs[slot][0] = seq + 1
        return slot, seq + 1

    def _claim(self) -> int:
        """The next slot that the reader does not look at, marked as being written."""
        for step in range(1, NUM_SLOTS):
            slot = (self._last + step) % NUM_SLOTS
            seq = self._seqs[slot]
            seq[0] += np.uint64(1)
            if int(self._hold[0]) != slot + 1:  # looked at after marking, as the reader marks first
                self._last = slot
                return slot
            seq[0] -= np.uint64(1)
        raise AssertionError("one reader holds one slot")


class RingReader:
    """Publish's end; it maps the ring without the right to write.

    Args:
        ring: Descriptor of the ring, read-only.
        hold: Descriptor of the reader's page, read-write.
        geometry: Size that capture announced.

    Raises:
        ValueError: The ring is not sealed or not of that size.
    """

    def __init__(self, ring: int, hold: int, geometry: Geometry) -> None:
        if not is_sealed(ring) or os.fstat(ring).st_size != geometry.total_bytes:
            raise ValueError("the ring is not what capture announced")
        self._memory = mmap.mmap(ring, geometry.total_bytes, prot=mmap.PROT_READ)
        if _LAYOUT.unpack_from(self._memory) != _layout(geometry):
            raise ValueError("the ring is not what capture announced")
        self._hold = np.frombuffer(mmap.mmap(hold, PAGE), np.uint64)
        self._hold[0] = 0  # an earlier reader's, who may have been killed
        self._geometry = geometry
        self._held: tuple[int, int] | None = None
        self.handed_ns = 0

    def hold(self, slot: int, seq: int, *, epoch: int) -> SafeFrame:
        """The frame in a slot, without a copy: valid until `release`.

        Raises:
            TornFrameError: The slot does not hold that frame any more, or is no whole frame.
        """
        if not 0 <= slot < NUM_SLOTS or seq % 2:
            raise TornFrameError(f"slot {slot}, sequence {seq}")
        start = PAGE + slot * self._geometry.slot_bytes
        self._hold[0] = slot + 1
        self._held = (start, seq)
        found = _SLOT.unpack_from(self._memory, start)
        if found[0] != seq or found[1] != epoch or found[5] > 128:
            self.release()
            raise TornFrameError(f"slot {slot} moved on")
        _, _, index, time_s, self.handed_ns, length, reason = found
        size = (self._geometry.height, self._geometry.width, 3)
        pixels = np.frombuffer(self._memory, np.uint8, math.prod(size), start + PAGE)
        text = reason[:length].decode("utf-8", "replace")
        text = "".join(c if c.isprintable() else "?" for c in text)
        return SafeFrame(pixels.reshape(size), index, time_s, text, _MAKER)

    def release(self) -> bool:
        """Lets the slot go; False where it was rewritten meanwhile: the frame was torn."""
        if self._held is None:
            return True
        (start, seq), self._held = self._held, None
        (found,) = struct.unpack_from("<Q", self._memory, start)
        self._hold[0] = 0
        return bool(found == seq)
