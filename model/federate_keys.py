"""Who is who: node keys, the roster of registered nodes, and certificates for the server.

A node has one key on P-384, kept in OpenSSH's format, as Flower's SuperLink wants it. With it the
node proves itself to the SuperLink and signs its keys of each round, so that a server can't slip in
keys of its own between two neighbours. The roster (`roster.json`: name -> public key) is pinned by
every node when its owner joins.
"""

import datetime
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from veilcam.camera.errors import InputError
from veilcam.model.federate_secagg import Keys

_CURVE = ec.SECP384R1()
_HASH = ec.ECDSA(hashes.SHA256())
_DAYS = 825


def make_identity(path: Path) -> str:
    """Makes a node key at `path` (0600) and `path`.pub; an existing one is kept.

    Returns:
        The public key's line.
    """
    public_path = path.with_name(path.name + ".pub")
    if not path.exists():
        key = ec.generate_private_key(_CURVE)
        encoded = key.private_bytes(
            forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, forms.NoEncryption()
        )
        _write_secret(path, encoded)
    line = public_line(read_key(path))
    public_path.write_text(line + "\n")
    return line


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's private key.

    Raises:
        InputError: There is none, or of another kind.
    """
    try:
        key = forms.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path}: no readable node key ({type(error).__name__}); make one with "
            "`veilcam federate node --new-key`"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path}: wanted an elliptic-curve key, got another kind")
    return key


def public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """The public key as OpenSSH writes it."""
    public = key.public_key()
    return public.public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH).decode()


@dataclass(frozen=True)
class Identity:
    """A node's name and key."""

    name: str
    key: ec.EllipticCurvePrivateKey

    def sign(self, fingerprint: str, context: bytes, keys: Keys) -> bytes:
        """Signature of this node's keys of one round."""
        return self.key.sign(_message(self.name, fingerprint, context, keys), _HASH)


class Roster:
    """Registered nodes: name -> line of its public key."""

    def __init__(self, lines: Mapping[str, str]) -> None:
        self.lines = dict(sorted(lines.items()))
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        for name, line in self.lines.items():
            try:
                key = forms.load_ssh_public_key(line.encode())
            except (ValueError, UnsupportedAlgorithm) as error:
                raise InputError(f"roster: the public key of {name!r} can't be read") from error
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise InputError(f"roster: the key of {name!r} is no elliptic-curve key")
            self._keys[name] = key

    @property
    def names(self) -> list[str]:
        """In order."""
        return list(self.lines)

    def is_signed(
        self, name: str, fingerprint: str, context: bytes, keys: Keys, signature: bytes
    ) -> bool:
        """Whether the registered node of that name signed these keys."""
        if name not in self._keys:
            return False
        try:
            self._keys[name].verify(signature, _message(name, fingerprint, context, keys), _HASH)
        except InvalidSignature:
            return False
        return True

    def write(self, path: Path) -> None:
        """As JSON."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.lines, indent=1) + "\n")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Roster":
        """What `write` wrote.

        Raises:
            InputError: The file is no object of names and keys.
        """
        try:
            lines = json.loads(path.read_text())
            if not all(isinstance(entry, str) for pair in lines.items() for entry in pair):
                raise ValueError("not all are strings")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: wanted a JSON object of node names and public keys: {error}"
            ) from error
        return cls(lines)


def _message(name: str, fingerprint: str, context: bytes, keys: Keys) -> bytes:
    parts = (b"veilcam federate", name.encode(), fingerprint.encode(), context)
    return b"/".join(part.hex().encode() for part in (*parts, keys.mask, keys.seal))


def make_certificates(folder: Path, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> Path:
    """A certificate authority of its own and a server certificate; existing ones are kept.

    Returns:
        `ca.crt`, which nodes need; beside it lie `server.crt` and `server.key`.
    """
    root = folder / "ca.crt"
    if root.exists():
        return root
    ca_key, server_key = ec.generate_private_key(_CURVE), ec.generate_private_key(_CURVE)
    issuer = _named("veilcam federation")
    basic = x509.BasicConstraints(ca=True, path_length=0)
    ca = _builder(issuer, issuer, ca_key).add_extension(basic, critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = ca.add_extension(usage, critical=True)
    names = [_host(host) for host in hosts]
    server = _builder(_named(hosts[0]), issuer, server_key)
    server = server.add_extension(x509.SubjectAlternativeName(names), critical=False)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    server = server.add_extension(purpose, critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    server = server.add_extension(authority, critical=False)
    key_bytes = server_key.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    _write_secret(folder / "server.key", key_bytes)
    signed = server.sign(ca_key, hashes.SHA256())  # the authority's key is not kept
    (folder / "server.crt").write_bytes(signed.public_bytes(forms.Encoding.PEM))
    root.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(forms.Encoding.PEM))
    return root


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(hours=1))
    made = made.not_valid_after(now + datetime.timedelta(days=_DAYS))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return made.add_extension(identifier, critical=False)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_secret(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:  # noqa: PTH123
        stream.write(data)
    partial.replace(path)
