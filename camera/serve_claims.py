"""What the page can say of the bundles at hand: modes that work, and what each bundle states."""

import logging
from pathlib import Path
from typing import Any

from veilcam.camera.capture import BUILDERS
from veilcam.camera.errors import ConfigError, GraphError
from veilcam.camera.explain import explain
from veilcam.camera.manifest import Bundle, load_bundle

_log = logging.getLogger(__name__)
_SUMS = ("bits_per_frame", "bits_per_second", "bits_per_track", "epsilon_per_track")


def load_bundles(path: Path | None, mode: str) -> dict[str, Bundle]:
    """Verified bundles by mode: the package's own, or the one that was given, for its mode alone.

    Raises:
        ConfigError: There is none for `mode`.
        GraphError: A given bundle was changed.
    """
    if path is not None:
        given = load_bundle(path, mode=None)
        found = {given.manifest["mode"]: given}
    else:
        found = {}
        for name in BUILDERS:
            try:
                found[name] = load_bundle(mode=name)
            except GraphError as error:
                _log.warning("mode %s is left out: %s", name, error)
    if mode not in found or mode not in BUILDERS:
        wanted = ", ".join(name for name in found if name in BUILDERS) or "another bundle"
        raise ConfigError(f"mode {mode!r}: no bundle for it here; wanted {wanted}")
    return {name: bundle for name, bundle in found.items() if name in BUILDERS}


def claims_of(bundles: dict[str, Bundle]) -> dict[str, Any]:
    """What the page puts into words."""
    strengths = explain()["strengths"]
    return {
        "bundles": {mode: _stated(bundle) for mode, bundle in bundles.items()},
        "strengths": {name: {key: v[key] for key in _SUMS} for name, v in strengths.items()},
    }


def _stated(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.manifest["name"],
        "sha256": bundle.sha256,
        "is_pinned": bundle.is_pinned,
        "training": bundle.manifest["training"],
        "data": bundle.manifest["data"],
        "bits_per_frame": bundle.manifest["code"]["bits_per_frame"],
        "local_dp": bundle.manifest["code"].get("local_dp"),
    }
