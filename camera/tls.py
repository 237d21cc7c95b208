"""TLS of page and `--sink web`: the user's certificate, or one that this machine signs itself.

The supervisor reads or makes it; publish, which can open no file, gets it in a memory without a
name. A certificate of our own is kept, so that its fingerprint, shown at each start, stays the same
and a browser's exception holds.
"""

import datetime
import hashlib
import importlib
import ipaddress
import os
import secrets
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError

SELF_SIGNED = "self-signed"
_DAYS, _LEFT_DAYS = 365, 30  # a new one is made when fewer days are left
_NAME = "Veilcam of this machine"


def read_pem(certificate: Path | None, key: Path | None) -> bytes:
    """Chain and key of the user, checked. Both in one file where no key is given.

    Raises:
        ConfigError: They cannot be read, or do not belong together.
    """
    parts = []
    for path in (certificate, key):
        try:
            parts.append(path.read_bytes() if path is not None else b"")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    pem = b"\n".join(parts)
    try:
        _check(pem)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{certificate} cannot be served with: wanted a PEM chain and its key without a "
            f"password ({getattr(error, 'reason', None) or 'no PEM'})"
        ) from error
    return pem


def self_signed(names: Iterable[str], folder: Path) -> bytes:
    """Chain and key that this machine signed for its own names; kept in a folder.

    Raises:
        ConfigError: The library is missing, or the file can be read by others or not be written.
    """
    wanted = sorted(set(names))
    path = folder / "tls.pem"
    kept = _kept(path)
    if kept is not None and _is_good(kept, wanted):
        return kept
    # names of other starts stay, or two ways to start would each undo the other's certificate
    pem = _made(sorted({*wanted, *(_names_of(kept) if kept is not None else ())}))
    temporary = path.with_name(f".tls-{secrets.token_hex(4)}")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(pem)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return pem


def fingerprint(pem: bytes) -> str:
    """SHA-256 of the first certificate, as browsers show it.

    >>> len(fingerprint(_made(["localhost"])).split(":"))
    32
    """
    text = pem.decode("latin-1")
    first = text[text.index("-----BEGIN CERTIFICATE") : text.index("-----END CERTIFICATE")]
    data = ssl.PEM_cert_to_DER_cert(f"{first}-----END CERTIFICATE-----")
    digest = hashlib.sha256(data).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


@contextmanager
def handed_pem(pem: bytes) -> Iterator[int]:
    """A descriptor of chain and key in a memory without a name."""
    descriptor = os.memfd_create("veilcam-tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        yield descriptor
    finally:
        os.close(descriptor)


def context_of(descriptor: int) -> ssl.SSLContext:
    """A server's context, TLS 1.2 and later, of what `handed_pem` gave.

    Raises:
        ssl.SSLError: No chain with its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # without an answer a password would be asked for on the terminal
    context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
    return context


def _check(pem: bytes) -> None:
    with handed_pem(pem) as descriptor:
        context_of(descriptor)


def _kept(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"others can read {path}: run `chmod 600 {path}`, or remove it")
    return path.read_bytes()


def _is_good(pem: bytes, names: list[str]) -> bool:
    """True where a certificate is for these names and holds for a while."""
    try:
        _check(pem)
        end = _library("x509").load_pem_x509_certificate(pem).not_valid_after_utc
    except (ssl.SSLError, ValueError):
        return False
    left: datetime.timedelta = end - datetime.datetime.now(datetime.UTC)
    return _names_of(pem) >= set(names) and left > datetime.timedelta(days=_LEFT_DAYS)


def _names_of(pem: bytes) -> set[str]:
    """Names that a certificate is for; none where it is none."""
    x509 = _library("x509")
    try:
        found = x509.load_pem_x509_certificate(pem)
        entry = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return set()
    kinds = (x509.DNSName, x509.IPAddress)
    return {str(value) for kind in kinds for value in entry.get_values_for_type(kind)}


def _made(names: list[str]) -> bytes:
    x509, oid = _library("x509"), _library("x509.oid")
    coding = _library("hazmat.primitives.serialization")
    curves = _library("hazmat.primitives.asymmetric.ec")
    key = curves.generate_private_key(curves.SECP256R1())
    subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alt(x509, n) for n in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, _library("hazmat.primitives.hashes").SHA256())
    )
    private = key.private_bytes(
        coding.Encoding.PEM, coding.PrivateFormat.PKCS8, coding.NoEncryption()
    )
    return bytes(made.public_bytes(coding.Encoding.PEM) + private)


def _alt(x509: Any, name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(f"cryptography.{name}")
    except ImportError as error:
        raise ConfigError(
            f"a certificate of our own needs {error.name}: run ./scripts/setup serve"
        ) from error
