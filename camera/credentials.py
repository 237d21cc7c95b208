"""C2PA content credentials: signed into a picture that we made, and read from any picture.

Without a real certificate each picture is signed by one made for it, whose key is forgotten at
once: it proves that the picture was not changed since, not who made it, and validators call its
signer unknown. One kept for a user would tie all pictures of that user together.
"""

import datetime
import importlib
import io
import json
from dataclasses import dataclass
from typing import Any

from veilcam.camera.errors import ConfigError

_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype"
SOURCE_TYPES = {  # by mode: pixels of a camera with painted ones, or painted ones alone
    "face": f"{_IPTC}/compositeWithTrainedAlgorithmicMedia",
    "frame": f"{_IPTC}/trainedAlgorithmicMedia",
}
BUNDLE_LABEL = "org.veilcam.bundle"
MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp"}
_YEARS = 3
_AUTHORITY, _SIGNER = "Veilcam test authority", "Veilcam test signer"
# Nothing may be fetched: reading a stranger's picture must not tell anybody that it was read.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM texts of a certificate chain, leaf first, and of the leaf's P-256 key."""

    chain: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Certificate(key withheld)"


def load_c2pa() -> Any:
    """The kept library. Raises ConfigError without it."""
    try:
        importlib.import_module("cryptography.x509")
        return importlib.import_module("c2pa")
    except (ImportError, OSError) as error:
        raise ConfigError("credentials need c2pa-python: pip install 'veilcam[social]'") from error


def make_certificate() -> Certificate:
    """A fresh test certificate under a fresh authority.

    Source: C2PA specification 2.1, section 14.5, certificate profile.
    """
    curves = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
    coding = importlib.import_module("cryptography.hazmat.primitives.serialization")
    root_key, key = (curves.generate_private_key(curves.SECP256R1()) for _ in range(2))
    leaf = _certificate(_SIGNER, key, root_key, is_authority=False)
    root = _certificate(_AUTHORITY, root_key, root_key, is_authority=True)
    pem = coding.Encoding.PEM
    return Certificate(
        leaf.public_bytes(pem) + root.public_bytes(pem),
        key.private_bytes(pem, coding.PrivateFormat.PKCS8, coding.NoEncryption()),
    )


def _certificate(subject: str, key: Any, issuer_key: Any, *, is_authority: bool) -> Any:
    x509 = importlib.import_module("cryptography.x509")
    oid = importlib.import_module("cryptography.x509.oid")
    sha256 = importlib.import_module("cryptography.hazmat.primitives.hashes").SHA256()
    today = datetime.datetime.now(datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today - datetime.timedelta(days=1)  # the hour is nobody's business

    def named(text: str) -> Any:
        pairs = ((oid.NameOID.ORGANIZATION_NAME, "Veilcam test"), (oid.NameOID.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(*pair) for pair in pairs])

    usage = x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(_AUTHORITY))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(usage, critical=True)
    )
    own, issuer = key.public_key(), issuer_key.public_key()
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(own), False)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False)
    if not is_authority:
        purpose = x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(purpose, critical=False)
    return made.sign(issuer_key, sha256)


def sign(data: bytes, kind: str, certificate: Certificate, bundle: dict[str, str]) -> bytes:
    """The picture with credentials that say what it is and what made it.

    Args:
        data: A finished file; it is not changed but for the credentials.
        kind: JPEG, PNG or WebP.
        certificate: Who signs.
        bundle: `mode` and `bundle_sha256` of what painted it.

    Raises:
        ConfigError: The certificate is none that C2PA takes.
    """
    c2pa = load_c2pa()
    source_type = SOURCE_TYPES[bundle["mode"]]
    created = {"action": "c2pa.created", "digitalSourceType": source_type}
    manifest = {
        "claim_generator_info": [{"name": "Veilcam", "version": "0.1.0"}],
        "title": "picture",
        "format": MIME[kind],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": BUNDLE_LABEL, "data": bundle},
        ],
    }
    out = io.BytesIO()
    try:
        context = c2pa.Context.from_dict(_SETTINGS)
        info = c2pa.C2paSignerInfo(b"es256", certificate.chain, certificate.key, None)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest), context) as builder,
        ):
            builder.sign(signer, MIME[kind], io.BytesIO(data), out)
    except c2pa.C2paError as error:
        raise ConfigError(
            f"the picture could not be signed ({error}); give another --certificate and --key, "
            "PEM, P-256, with the usage that C2PA asks for"
        ) from error
    return out.getvalue()


def read(data: bytes, kind: str) -> dict[str, Any] | None:
    """What the credentials of a picture say; None where it has none.

    Returns:
        `state`: `Valid`, `Trusted` or `Invalid`; `problems`: codes of what does not fit, without
        that of an unknown signer; `signer`, `generator`, `source_type`, `bundle`.
    """
    c2pa = load_c2pa()
    try:
        context = c2pa.Context.from_dict(_SETTINGS)
        with c2pa.Reader(MIME[kind], io.BytesIO(data), context=context) as reader:
            value = json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__ or "ManifestNotFound" in str(error):
            return None
        return {"state": "Invalid", "problems": ["unreadable"], "signer": "", "generator": "",
                "source_type": "", "bundle": {}}  # fmt: skip
    active = value["manifests"][value["active_manifest"]]
    found = {entry["label"]: entry.get("data", {}) for entry in active.get("assertions", [])}
    actions: dict[str, Any] = next(
        (v for k, v in found.items() if k.startswith("c2pa.actions")), {}
    )
    types = [a.get("digitalSourceType", "") for a in actions.get("actions", [])]
    status = [str(entry.get("code")) for entry in value.get("validation_status", [])]
    generators = active.get("claim_generator_info") or [{}]
    return {
        "state": value.get("validation_state", "Invalid"),
        "problems": [code for code in status if code != "signingCredential.untrusted"],
        "signer": active.get("signature_info", {}).get("common_name", ""),
        "generator": generators[0].get("name", ""),
        "source_type": next(filter(None, types), ""),
        "bundle": found.get(BUNDLE_LABEL, {}),
    }
