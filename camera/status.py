"""Asks a running page for its counters, and judges them."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from veilcam.camera.errors import ConfigError, SourceError

_TIMEOUT_S = 30.0
_MAX_BYTES = 1 << 20
_MANY_BLANK = 0.5


def ask(address: str, password: str, *, ca: str | None = None) -> dict[str, Any]:
    """The status of the page at `address`.

    Args:
        address: As http://door.local or https://10.0.0.7:8443.
        password: The page's.
        ca: PEM file of a certificate to trust, for one that signed itself.

    Raises:
        ConfigError: No such address, or a wrong password.
        SourceError: Nobody answers there, or no Veilcam.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"got {address!r}, wanted an address such as http://door.local")
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    login = base64.b64encode(f"veilcam:{password}".encode()).decode()
    request = urllib.request.Request(
        f"{where}/api/status", headers={"Authorization": f"Basic {login}"}
    )
    trust = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=trust) as answer:
            value = json.loads(answer.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise ConfigError(f"{where}: wrong password") from error
        raise SourceError(f"{where} answers with {error.code}; is it a Veilcam?") from error
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise SourceError(f"{where} does not answer ({reason}); check name and network") from error
    except ValueError as error:
        raise SourceError(f"{where} answers, but is no Veilcam") from error
    if not isinstance(value, dict):
        raise SourceError(f"{where} answers, but is no Veilcam")
    return value


def health(status: dict[str, Any]) -> list[str]:
    """What is wrong, in words; empty where all is well.

    >>> health({"frames_out": 90, "frames_blank": 1, "is_live": True})
    []
    >>> health({"frames_out": 9, "frames_blank": 9, "problem": "no camera 0", "is_live": False})
    ['no camera 0']
    """
    problems = [str(status["problem"])] if status.get("problem") else []
    if status.get("missing"):
        problems.append(f"barriers are down: {status['missing']}")
    num_out, num_blank = (int(status.get(name, 0)) for name in ("frames_out", "frames_blank"))
    if not problems and not num_out:
        problems.append("no picture yet")
    elif not problems and num_blank > _MANY_BLANK * num_out:
        problems.append(f"{num_blank} of {num_out} pictures are blank")
    return problems
