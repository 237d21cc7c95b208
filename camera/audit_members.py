"""Membership inference wired to a bundle: its sampler against pictures given by the user."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from veilcam.camera.audit_faces import FaceFinder
from veilcam.camera.audit_membership import as_row, membership_inference, membership_row
from veilcam.camera.audit_people import Picture, draw_people, read_people
from veilcam.camera.audit_recognizers import crop_box
from veilcam.camera.audit_shots import Instruments
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import Bundle

_MAX_PICTURES = 400
_MIN_PICTURES = 40


@runtime_checkable
class MemberOptions(Protocol):
    """The part of the audit's options that this file reads."""

    @property
    def members(self) -> Path | None:
        """Training pictures."""

    @property
    def non_members(self) -> Path | None:
        """Like pictures that were not trained on."""

    @property
    def cache(self) -> Path | None:
        """Folder for arrays of public pictures."""

    @property
    def is_quick(self) -> bool:
        """Fewer pictures."""


def membership_of_bundle(
    options: MemberOptions, bundle: Bundle, generator: Generator, tools: Instruments,
    skipped: list[str],
) -> dict[str, Any] | None:  # fmt: skip
    """The membership row, or None with the reason in `skipped`.

    Half of the non-members serve as reference: pictures of the same origin in neither group.
    """
    if options.members is None or options.non_members is None:
        skipped.append(
            "membership_nearest_sample: give --members (training pictures) and --non-members"
            " (pictures of the same origin that were not trained on)"
        )
        return None
    limit = _MAX_PICTURES // (4 if options.is_quick else 1)
    inside = _rows(read_people(options.members), tools.finder, limit, options.cache, "members")
    outside = _rows(
        read_people(options.non_members), tools.finder, 2 * limit, options.cache, "non_members"
    )
    if min(len(inside), len(outside) // 2) < _MIN_PICTURES:
        skipped.append(f"membership_nearest_sample: fewer than {_MIN_PICTURES} pictures a group")
        return None

    def sampler(num: int) -> np.ndarray:
        drawn = draw_people(bundle, generator, num_people=num, num_pictures=1)
        return _rows(drawn, tools.finder, num, None, "")

    result = membership_inference(
        sampler, inside, outside[::2], reference=outside[1::2],
        num_samples=300 if options.is_quick else 2000,
    )  # fmt: skip
    return membership_row(result)


def _rows(
    pictures: Iterable[Picture], finder: FaceFinder, limit: int, cache: Path | None, name: str
) -> np.ndarray:
    """Face crops as comparable rows; cached as an array of numbers where a folder is named.

    Only what the user names as training or comparison pictures comes here, and only into the
    folder that he names: pictures under attack are never cached.
    """
    pictures = list(pictures)
    # named after who is in it, so that another folder never meets this one's numbers
    who = hashlib.sha256("\n".join(f"{p.person} {p.number}" for p in pictures).encode())
    file = cache / f"{name}_{limit}_{who.hexdigest()[:16]}.npy" if cache is not None else None
    if file is not None and file.is_file():
        return np.asarray(np.load(file, allow_pickle=False))
    rows = []
    for picture in pictures:
        bgr = picture.read()
        faces = finder(bgr)
        if faces:
            rows.append(as_row(crop_box(bgr, faces[0])))
        if len(rows) >= limit:
            break
    found = np.stack(rows) if rows else np.zeros((0, 1))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, found)
    return found
