"""Secure aggregation: the server learns the sum of the nodes' vectors and nothing else of them.

Four messages a round, as in SecAgg+: `announce` keys, `share` secrets with neighbours, `mask` the
vector, `unmask` the sum. Every vector is hidden by one mask of the node's own and one for each
neighbour; neighbours' masks cancel in the sum. What a node that vanishes leaves behind is removed
with the shares its neighbours hold: for each node they give up *either* its own mask (it sent its
vector) *or* its key (it did not), once a round, and more than half of them must agree, so a server
that tells neighbours different stories can't have both.

Kept libraries: X25519, HKDF, ChaCha20 and ChaCha20-Poly1305 of `cryptography`, Shamir's sharing of
pycryptodome. Flower's own SecAgg+ is not used: it expands masks by numpy's Mersenne Twister from a
seed folded into 32 bits, which anybody can search, and it clamps what is out of range in silence.

Assumes a server that follows the protocol but looks at everything, and fewer than `threshold`
colluding neighbours of a node.

Source: Bonawitz et al. 2017; Bell et al. 2020 (the sparse graph of neighbours).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import UInt32

from veilcam.model.private_data import PrivacyError

_SEED, _SHARE = 16, 16 + 4  # bytes; a share has its index in front
STAGES = ("announce", "share", "mask", "unmask")
_ZERO_NONCE = bytes(12)  # every key seals one message


class AggregationError(PrivacyError):
    """The sum can't be unmasked or a partner broke the protocol; nothing was released."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Public keys of a node for one round, 32 bytes each."""

    mask: bytes
    seal: bytes


def num_shares_needed(num_holders: int) -> int:
    """More than half: two different stories can't both find so many holders."""
    return num_holders // 2 + 1


def neighbours_of(names: Sequence[str], degree: int) -> dict[str, tuple[str, ...]]:
    """A random ring in which everybody holds shares of itself and about `degree` others."""
    order = list(names)
    secrets.SystemRandom().shuffle(order)
    reach = min(max(degree // 2, 1), len(order) // 2)
    graph: dict[str, tuple[str, ...]] = {}
    for place, name in enumerate(order):
        steps = range(-reach, reach + 1)
        graph[name] = tuple(sorted({order[(place + step) % len(order)] for step in steps}))
    return graph


class Member:
    """A node's side of one round. Its methods are called in order, each once.

    Args:
        name: Of this node.
        context: Bytes that say which federation, round and attempt; part of every derived key.
    """

    def __init__(self, name: str, context: bytes) -> None:
        self.name = name
        self._context = context
        self._own_seed = secrets.token_bytes(_SEED)
        self._key_seed = secrets.token_bytes(_SEED)
        self._seal_key = X25519PrivateKey.generate()
        self._partners: dict[str, Keys] = {}
        self._kept: dict[str, tuple[bytes, bytes]] = {}
        self._stage = 0

    def announce(self) -> Keys:
        """Public keys for this round."""
        self._next(1)
        mask_key = _mask_key(self._key_seed)
        return Keys(_public(mask_key), _public(self._seal_key))

    def share(self, partners: Mapping[str, Keys]) -> dict[str, bytes]:
        """Sealed shares of both secrets for each other holder. `partners` include this node."""
        self._next(2)
        own = Keys(_public(_mask_key(self._key_seed)), _public(self._seal_key))
        if partners.get(self.name) != own or len(partners) < 2:
            raise AggregationError("the partners offered for this round lack this node's own keys")
        self._partners = dict(partners)
        holders = sorted(partners)
        needed = num_shares_needed(len(holders))
        parts = [_split(seed, needed, len(holders)) for seed in (self._own_seed, self._key_seed)]
        sealed = {}
        for holder, own_share, key_share in zip(holders, *parts, strict=True):
            if holder == self.name:
                self._kept[holder] = (own_share, key_share)
            else:
                sealer = ChaCha20Poly1305(self._sealing_key(self.name, holder))
                plain = own_share + key_share
                sealed[holder] = sealer.encrypt(_ZERO_NONCE, plain, self._context)
        return sealed

    def mask(
        self, vector: UInt32[np.ndarray, " d"], sealed: Mapping[str, bytes]
    ) -> UInt32[np.ndarray, " d"]:
        """The vector behind its masks; `sealed` holds what the partners sealed for this node."""
        self._next(3)
        for sender, box in sealed.items():
            if sender not in self._partners or sender == self.name:
                raise AggregationError("shares from a node that is no partner")
            opener = ChaCha20Poly1305(self._sealing_key(sender, self.name))
            try:
                plain = opener.decrypt(_ZERO_NONCE, box, self._context)
            except InvalidTag as error:
                raise AggregationError("shares that were changed on their way") from error
            self._kept[sender] = (plain[:_SHARE], plain[_SHARE:])
        if len(self._kept) < num_shares_needed(len(self._partners)):
            raise AggregationError(f"only {len(self._kept)} holders are left; too few to go on")
        masked = vector + _stream(self._own_seed, self._context, len(vector))
        own_key = _mask_key(self._key_seed)
        for partner in self._kept:
            if partner != self.name:
                mask = _pair_mask(own_key, self._partners[partner], self._context, len(vector))
                masked = masked + mask if self.name < partner else masked - mask
        return np.asarray(masked, np.uint32)

    def unmask(self, alive: Sequence[str], dead: Sequence[str]) -> dict[str, bytes]:
        """Shares of the own masks of the living, and of the keys of the dead. Once."""
        self._next(4)
        if set(alive) & set(dead) or not {*alive, *dead} <= set(self._kept):
            raise AggregationError("a node can't be both alive and dead, nor a stranger")
        if self.name not in alive or len(alive) < num_shares_needed(len(self._partners)):
            raise AggregationError("too few partners are alive; their masks stay on")
        shares = {name: self._kept[name][0] for name in alive}
        return shares | {name: self._kept[name][1] for name in dead}

    @property
    def is_done(self) -> bool:
        """Whether all four stages are behind it."""
        return self._stage == len(STAGES)

    def _sealing_key(self, sender: str, receiver: str) -> bytes:
        other = receiver if sender == self.name else sender
        shared = self._seal_key.exchange(
            X25519PublicKey.from_public_bytes(self._partners[other].seal)
        )
        return _derive(shared, self._context + f"/seal/{sender}/{receiver}".encode())

    def _next(self, stage: int) -> None:
        if self._stage != stage - 1:
            raise AggregationError(f"stage {stage} after stage {self._stage}; each comes once")
        self._stage = stage


class Assembly:
    """The server's side of one round.

    Args:
        context: The same bytes as the members'.
        keys: Public keys of those who announced.
        degree: About how many neighbours each gets.
    """

    def __init__(self, context: bytes, keys: Mapping[str, Keys], degree: int) -> None:
        self.context = context
        self.keys = dict(keys)
        self.neighbours = neighbours_of(list(keys), degree)
        self._sealed: dict[str, dict[str, bytes]] = {}
        self._masked: dict[str, UInt32[np.ndarray, " d"]] = {}

    def partners(self, name: str) -> dict[str, Keys]:
        """For `Member.share`."""
        return {other: self.keys[other] for other in self.neighbours[name]}

    def take_shares(self, name: str, sealed: Mapping[str, bytes]) -> None:
        """Keeps what `Member.share` made."""
        if set(sealed) != set(self.neighbours[name]) - {name}:
            raise AggregationError("shares for others than the neighbours")
        self._sealed[name] = dict(sealed)

    def sealed_for(self, name: str) -> dict[str, bytes]:
        """For `Member.mask`: of those neighbours who shared."""
        others = (other for other in self.neighbours[name] if other != name)
        return {other: self._sealed[other][name] for other in others if other in self._sealed}

    @property
    def sharers(self) -> list[str]:
        """Who may send a masked vector."""
        return sorted(self._sealed)

    def take_masked(self, name: str, masked: UInt32[np.ndarray, " d"]) -> None:
        """Keeps what `Member.mask` made."""
        if name not in self._sealed:
            raise AggregationError("a masked vector from a node that shared nothing")
        self._masked[name] = masked

    @property
    def alive(self) -> list[str]:
        """Whose vectors are in the sum."""
        return sorted(self._masked)

    def fates(self, name: str) -> tuple[list[str], list[str]]:
        """For `Member.unmask`: which neighbours live and which vanished after sharing."""
        known = [other for other in self.neighbours[name] if other in self._sealed]
        living = [other for other in known if other in self._masked]
        return living, [other for other in known if other not in self._masked]

    def unmask(self, replies: Mapping[str, Mapping[str, bytes]]) -> UInt32[np.ndarray, " d"]:
        """The sum over `alive`, from what `Member.unmask` gave.

        Raises:
            AggregationError: Somebody's secret can't be put together: too few holders are left.
        """
        total = np.asarray(np.sum(list(self._masked.values()), axis=0, dtype=np.uint32))
        for name in self.sharers:
            holders = self.neighbours[name]
            shares = [
                replies[holder][name] for holder in holders if name in replies.get(holder, {})
            ]
            seed = _join(shares, num_shares_needed(len(holders)), name)
            if name in self._masked:
                total = total - _stream(seed, self.context, len(total))
                continue
            key = _mask_key(seed)
            if _public(key) != self.keys[name].mask:
                raise AggregationError("shares of a vanished node don't make its key")
            for other in holders:
                if other != name and other in self._masked:
                    mask = _pair_mask(key, self.keys[other], self.context, len(total))
                    total = total - mask if other < name else total + mask
        return np.asarray(total, np.uint32)


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def _mask_key(seed: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(_derive(seed, b"veilcam mask key"))


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _pair_mask(
    own: X25519PrivateKey, other: Keys, context: bytes, size: int
) -> UInt32[np.ndarray, " d"]:
    shared = own.exchange(X25519PublicKey.from_public_bytes(other.mask))
    return _stream(shared, context, size)


def _stream(secret: bytes, context: bytes, size: int) -> UInt32[np.ndarray, " d"]:
    """Uniform numbers modulo 2^32 that only who knows the secret can make."""
    cipher = Cipher(algorithms.ChaCha20(_derive(secret, context + b"/mask"), bytes(16)), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(4 * size)), np.dtype("<u4"))


def _split(seed: bytes, needed: int, count: int) -> list[bytes]:
    shares = Shamir.split(needed, count, seed)
    return [index.to_bytes(4, "little") + share for index, share in shares]


def _join(shares: Sequence[bytes], needed: int, name: str) -> bytes:
    if len(shares) < needed:
        raise AggregationError(
            f"{len(shares)} of the {needed} shares needed for node {name!r} came back; the round "
            "is dropped and nothing was learnt from it"
        )
    parts = [(int.from_bytes(share[:4], "little"), share[4:]) for share in shares[:needed]]
    return bytes(Shamir.combine(parts))
