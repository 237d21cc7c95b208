"""Channels between our processes: packets on Unix socket pairs, without waiting."""

import math
import os
import select
import socket
from contextlib import suppress
from typing import Any

from veilcam.camera.control import MAX_BYTES, Message, decode, encode


class Link:
    """One end of a channel; packets keep their borders, a full channel is an error, not a wait.

    Args:
        descriptor: A Unix SOCK_SEQPACKET socket; the link owns it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def fileno(self) -> int:
        """For `select`."""
        return self._descriptor

    def send(self, message: Message) -> bool:
        """Sends; False where the other end is gone or does not read."""
        try:
            # os.write, not a socket call: a sandboxed process has none
            return os.write(self._descriptor, encode(message)) > 0
        except (BlockingIOError, BrokenPipeError, ConnectionError, InterruptedError):
            return False

    def receive(self) -> Message | None:
        """Next message, or None where there is none now.

        Raises:
            ProtocolError: The packet is not in the vocabulary.
            EOFError: The other end is gone.
        """
        try:
            packet = os.read(self._descriptor, MAX_BYTES + 1)
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise EOFError from error
        if not packet:
            raise EOFError
        return decode(packet)

    def wait(self, timeout_s: float) -> bool:
        """True once something can be received, False after the time."""
        return bool(wait_any([self], timeout_s))

    def close(self) -> None:
        """Closes this end."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def wait_any(links: list[Any], timeout_s: float) -> list[Any]:
    """Those links (or pid descriptors) that have something; empty after the time."""
    poll = select.poll()
    by_number = {link if isinstance(link, int) else link.fileno(): link for link in links}
    for number in by_number:
        poll.register(number, select.POLLIN)
    milliseconds = max(0, math.ceil(timeout_s * 1000))
    return [by_number[number] for number, _ in poll.poll(milliseconds)]


def open_pair() -> tuple[int, int]:
    """Two connected ends of a channel, as descriptors that are not inherited."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


def drain(descriptor: int) -> None:
    """Throws away what waits at an end of a channel."""
    os.set_blocking(descriptor, False)
    with suppress(BlockingIOError, ConnectionError):
        while os.read(descriptor, MAX_BYTES + 1):
            pass
