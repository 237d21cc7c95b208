"""Digest login of RTSP: the password itself does not cross the network.

MD5, because that is what players know (RFC 2617 as RFC 2326 takes it up); a reader who listens in
can try passwords against what it hears, so the password must be a long one, or TLS be used.
"""

import hashlib
import hmac
import re
import secrets

PASSWORD_VARIABLE = "VEILCAM_STREAM_PASSWORD"
USER, PATH, PORT = "veilcam", "/veilcam", 8554
_REALM = "Veilcam"
_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,"]+))')


def kept(password: str) -> str:
    """What the server needs to know of a password (HA1); empty for none."""
    return _md5(f"{USER}:{_REALM}:{password}") if password else ""


class Login:
    """One connection's; its challenge is its own, so that no answer is good for another one.

    Args:
        known: `kept` of the password; empty lets everybody in.
    """

    def __init__(self, known: str) -> None:
        self._known = known
        self._nonce = secrets.token_hex(16)
        self.is_in = not known

    @property
    def challenge(self) -> str:
        """Value of `WWW-Authenticate`."""
        return f'Digest realm="{_REALM}", nonce="{self._nonce}", algorithm=MD5'

    def check(self, method: str, answer: str) -> bool:
        """Whether the value of `Authorization` is right; if so the connection is in from now on."""
        if not answer.lower().startswith("digest "):
            return False
        fields = {name.lower(): quoted or plain for name, quoted, plain in _FIELD.findall(answer)}
        if fields.get("username") != USER or fields.get("nonce") != self._nonce:
            return False
        asked = _md5(f"{method}:{fields.get('uri', '')}")
        wanted = _md5(f"{self._known}:{self._nonce}:{asked}")
        self.is_in = hmac.compare_digest(wanted, fields.get("response", "").lower())
        return self.is_in


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
