"""What the supervisor hands to a process beside descriptors: JSON in a memory without a name."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MAX_HANDED_BYTES = 64 * 2**20


def read_handed(descriptor: int) -> dict[str, Any]:
    """The JSON that the supervisor left in a memory without a name."""
    size = min(os.fstat(descriptor).st_size, _MAX_HANDED_BYTES)
    value: dict[str, Any] = json.loads(os.pread(descriptor, size, 0))
    return value


@contextmanager
def handed_over(value: dict[str, Any]) -> Iterator[int]:
    """JSON in a memory without a name: no argument and no variable shows what is in it."""
    descriptor = os.memfd_create("veilcam-page", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(json.dumps(value).encode())
        yield descriptor
    finally:
        os.close(descriptor)
