"""Who is logged in, and who has tried too often. All of it in memory: it ends with the run."""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_IDLE_S = 12 * 3600.0
_MAX_AGE_S = 7 * 24 * 3600.0
_MAX_SESSIONS = 64
_BURST, _REFILL_S = 5, 12.0  # five tries at once, then one in twelve seconds
_MAX_PEERS = 4096
Clock = Callable[[], float]


@dataclass(slots=True)
class Session:
    """One logged-in browser.

    Attributes:
        csrf: What every change must carry in a header; a foreign page cannot read it.
    """

    csrf: str
    made_s: float
    seen_s: float


class Sessions:
    """Sessions by the hash of their cookie: memory that leaks holds no cookie.

    Args:
        now_s: The clock.
    """

    def __init__(self, now_s: Clock = time.monotonic) -> None:
        self._now_s = now_s
        self._by_hash: dict[bytes, Session] = {}

    def start(self) -> tuple[str, Session]:
        """A new session; its cookie comes first. The oldest ends where there are too many."""
        token = secrets.token_urlsafe(32)
        now_s = self._now_s()
        while len(self._by_hash) >= _MAX_SESSIONS:
            del self._by_hash[min(self._by_hash, key=lambda key: self._by_hash[key].seen_s)]
        session = Session(secrets.token_urlsafe(32), now_s, now_s)
        self._by_hash[_hash(token)] = session
        return token, session

    def find(self, token: str) -> Session | None:
        """The session of a cookie, None where there is none or it is too old."""
        key = _hash(token)
        session, now_s = self._by_hash.get(key), self._now_s()
        if session is None:
            return None
        if now_s - session.seen_s > _IDLE_S or now_s - session.made_s > _MAX_AGE_S:
            del self._by_hash[key]
            return None
        session.seen_s = now_s
        return session

    def end(self, token: str) -> None:
        """Forgets it."""
        self._by_hash.pop(_hash(token), None)


def is_token(session: Session, sent: str) -> bool:
    """True where the header holds the session's own CSRF token."""
    return hmac.compare_digest(session.csrf.encode(), sent.encode("utf-8", "replace"))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


@dataclass(slots=True)
class Tries:
    """How often each address may still try a password: a bucket that fills up again.

    Args:
        now_s: The clock.
    """

    now_s: Clock = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def wait_s(self, address: str) -> float:
        """Takes one try; 0 where it may be made, else how long to wait."""
        key, now_s = _network(address), self.now_s()
        left, then_s = self._left.get(key, (float(_BURST), now_s))
        left = min(float(_BURST), left + (now_s - then_s) / _REFILL_S)
        if left < 1.0:
            return (1.0 - left) * _REFILL_S
        if len(self._left) >= _MAX_PEERS and key not in self._left:
            del self._left[next(iter(self._left))]
        self._left[key] = (left - 1.0, now_s)
        return 0.0

    def forgive(self, address: str) -> None:
        """The right password came: this address starts afresh."""
        self._left.pop(_network(address), None)


def _network(address: str) -> str:
    """The address; of IPv6 the part that one household shares.

    >>> _network("2001:db8::1:2"), _network("192.0.2.7")
    ('2001:db8::/64', '192.0.2.7')
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
