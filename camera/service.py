"""Tells systemd that safe pictures flow, where it started us and asks for it (Type=notify).

`READY=1` goes out with the first picture that is not blank; until then more time is asked for.
`WATCHDOG=1` goes out while pictures of any kind come: a camera that was pulled out is no reason to
start anew, a loop that stands still is.
Source: sd_notify(3). Only the supervisor speaks; elsewhere nothing happens.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from veilcam.camera.totals import total

_log = logging.getLogger(__name__)
_EVERY_S = 1.0
_MORE_US = 120 * 1_000_000


class ServiceManager:
    """The end of systemd's notification socket.

    Args:
        address: As in NOTIFY_SOCKET: a path, or a name after `@`; empty where nobody listens.
    """

    def __init__(self, address: str = "") -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._is_ready = False
        self._num_seen = 0
        self._due_s = 0.0

    def tell(self, publish_values: Mapping[int, Mapping[str, Any]]) -> None:
        """Says what is new, once a second at most.

        Args:
            publish_values: Last report of every publish process (`Notes.publish_values`).
        """
        if not self._address or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + _EVERY_S
        reports = publish_values.values()
        num_out, num_blank = total(reports, "frames_out"), total(reports, "frames_blank")
        lines = []
        if num_out > num_blank and not self._is_ready:
            self._is_ready = True
            lines.append("READY=1")
        elif not self._is_ready:  # a camera may be plugged in at any time; who waits for it lives
            lines.append(f"EXTEND_TIMEOUT_USEC={_MORE_US}")
        if num_out > self._num_seen:
            self._num_seen = num_out
            lines += ["WATCHDOG=1", f"STATUS={num_out} pictures, {num_blank} of them blank"]
        if lines:
            self._send("\n".join(lines))

    def _send(self, text: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
                peer.sendto(text.encode(), self._address)
        except OSError as error:
            _log.warning("systemd does not listen (%s)", type(error).__name__)
            self._address = ""


def service_manager() -> ServiceManager:
    """Who started this process, by its environment."""
    return ServiceManager(os.environ.get("NOTIFY_SOCKET", ""))
