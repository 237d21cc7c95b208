"""A bundle offered to a fleet: what is signed, who signed it, and which device may take it.

An offer names every file of the bundle by its hash. It is signed by an Ed25519 key that never lies
on the server; devices pin its public half. The signature is checked over the bytes as they came,
before they are parsed; then versions are compared, and the sequence must be above every one the
device has seen, so that an old offer can't be played again.

Source: Ed25519, RFC 8032.
"""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from veilcam.camera.errors import InputError, VeilcamError
from veilcam.camera.manifest import SCHEMA_VERSION

PROTOCOL = 1  # of offers and reports
_PREFIX = b"veilcam rollout offer/"


class OfferRefused(VeilcamError):
    """A device does not take what is on offer; it goes on with the bundle it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What is signed.

    Attributes:
        sequence: Rises with every offer of a fleet.
        bundle_sha256: Of the manifest of the bundle on offer.
        former_sha256: Of the one it is compared with, and rolled back to.
        files: sha256 of each file of the bundle, manifest.json among them.
        schema_version: Of the bundle.
        local_epsilon: Of one noisy verdict of a device; at most two are sent for an offer.
        min_samples: Of the light audit, before a verdict.
        patience_s: A device without so many samples by then sends a fair coin's throw.
        protocol: Of offers and reports.
    """

    sequence: int
    bundle_sha256: str
    former_sha256: str
    files: dict[str, str]
    local_epsilon: float
    min_samples: int
    patience_s: float
    schema_version: int = SCHEMA_VERSION
    protocol: int = PROTOCOL

    def to_bytes(self) -> bytes:
        """What is signed."""
        return json.dumps(asdict(self), sort_keys=True).encode()


def make_key(path: Path) -> str:
    """Makes a signing key at `path` (0600, no password) and `path`.pub; existing ones are kept.

    Returns:
        The public key, 64 hexadecimal digits: devices pin it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = Ed25519PrivateKey.generate().private_bytes(
            forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
        )
        partial = path.with_name(path.name + ".partial")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(partial, flags, 0o600), "wb") as stream:
            stream.write(raw)
        partial.replace(path)
    public = read_key(path).public_key().public_bytes_raw().hex()
    path.with_name(path.name + ".pub").write_text(public + "\n")
    return public


def read_key(path: Path) -> Ed25519PrivateKey:
    """A signing key.

    Raises:
        InputError: There is none, or of another kind.
    """
    try:
        key = forms.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: no readable signing key ({type(error).__name__}); make one with "
            "`veilcam federate rollout key`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: wanted an Ed25519 key, got another kind")
    return key


def trusted_key(text: str) -> Ed25519PublicKey:
    """The public key that a device pins, from its digits.

    Raises:
        InputError: They are no key.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.strip()))
    except ValueError as error:
        raise InputError(f"trusted key: wanted 64 hexadecimal digits: {error}") from error


def sign(offer: Offer, key: Ed25519PrivateKey) -> dict[str, str]:
    """The offer as it travels: bytes and signature in base64."""
    raw = offer.to_bytes()
    signature = key.sign(_PREFIX + raw)
    return {"raw": _b64(raw), "signature": _b64(signature)}


def check(envelope: Mapping[str, Any], trusted: Ed25519PublicKey, last_sequence: int) -> Offer:
    """The offer, if this device may take it.

    Raises:
        OfferRefused: The signature is not the trusted key's, a version is another, or the
            sequence is not above `last_sequence`.
    """
    try:
        raw = base64.b64decode(envelope["raw"], validate=True)
        trusted.verify(base64.b64decode(envelope["signature"], validate=True), _PREFIX + raw)
    except InvalidSignature as error:
        raise OfferRefused(
            "the offer is not signed by the key this device trusts; it is not taken"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise OfferRefused(f"the offer is malformed ({type(error).__name__})") from error
    return _parse(raw, last_sequence)


def _parse(raw: bytes, last_sequence: int) -> Offer:
    """A signed offer, its versions compared first: what comes after them may have changed."""
    try:
        told = json.loads(raw)
        versions = int(told["protocol"]), int(told["schema_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise OfferRefused(f"the offer is malformed ({type(error).__name__})") from error
    if versions[0] != PROTOCOL:
        raise OfferRefused(
            f"the server speaks rollout protocol {versions[0]} and this device {PROTOCOL}; bring "
            "both to the same version of Veilcam"
        )
    if versions[1] != SCHEMA_VERSION:
        raise OfferRefused(
            f"the bundle on offer has schema_version {versions[1]} and this device reads "
            f"{SCHEMA_VERSION}; update Veilcam on the device first"
        )
    try:
        offer = Offer(**told)
        names = [Path(name).name == name and name not in ("", "..") for name in offer.files]
        is_sound = all(names) and "manifest.json" in offer.files and offer.local_epsilon > 0
        is_newer = offer.sequence > last_sequence
    except TypeError as error:
        raise OfferRefused(f"the offer is malformed ({error})") from error
    if not is_sound or offer.files["manifest.json"] != offer.bundle_sha256:
        raise OfferRefused("the offer lists no bundle")
    if not is_newer:
        raise OfferRefused(
            f"the offer's sequence {offer.sequence} is not above {last_sequence}, which this "
            "device has seen: an old offer is not taken again"
        )
    return offer


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
