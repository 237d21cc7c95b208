"""Noise that stays the same for a whole run, also where its capture process is started anew.

Fresh noise after each start would let who sees n starts average it. The supervisor draws one key
for the run and tells it to capture alone; publish, which has the sockets, never learns it.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

KEY_BYTES = 32
RandomBytes = Callable[[int], bytes]


@dataclass(slots=True)
class _Chosen:
    key: bytes = b""


_chosen = _Chosen()


def new_key() -> str:
    """A key for one run, as hex digits."""
    return secrets.token_hex(KEY_BYTES)


def choose_key(key: str) -> None:
    """Use a run's key in this process from now on; empty for fresh noise each time.

    Raises:
        ValueError: It is no such key.
    """
    given = bytes.fromhex(key)
    if len(given) not in (0, KEY_BYTES):
        raise ValueError(f"a key of {len(given)} bytes, wanted {KEY_BYTES}")
    _chosen.key = given


def run_noise(label: str) -> RandomBytes:
    """Random bytes for one purpose of this run: SHAKE256 of key, purpose and count of calls.

    Without a key they are the operating system's, fresh each time. Source: FIPS 202, section 6.3.

    >>> choose_key("ab" * 32)
    >>> run_noise("cells")(4) == run_noise("cells")(4) != run_noise("other")(4)
    True
    >>> choose_key("")
    >>> run_noise("cells")(8) == run_noise("cells")(8)
    False
    """
    if not _chosen.key:
        return secrets.token_bytes
    key, count = _chosen.key, 0

    def draw(num_bytes: int) -> bytes:
        nonlocal count
        count += 1
        given = key + count.to_bytes(8, "big") + label.encode()
        return hashlib.shake_256(given).digest(num_bytes)

    return draw
