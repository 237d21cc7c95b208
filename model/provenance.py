"""Where public training pictures come from, in the words that go into manifest and model card."""

from typing import Any

_SOURCES = {
    "generated": (
        "machine-made portraits of nobody, repository hmdghoul/generated-faces at 59ccdc2",
        "the repository states none; machine-made; the pictures are not shipped",
    ),
    "synthetic": (
        "machine-made portraits of nobody, SFHQ-T2I figures and faker-js/assets-person-portrait",
        "MIT and CC0-1.0",
    ),
    "simulated": (
        "heads rendered from MakeHuman and MPFB2 assets, nobody real",
        "CC0-1.0",
    ),
    "simulated people": (
        "whole people rendered from MakeHuman and MPFB2 assets, nobody real",
        "CC0-1.0",
    ),
    "views": ("perspective views of Poly Haven panoramas", "CC0-1.0"),
    "carla": (
        "street frames of the CARLA simulator, DanielHfnr/Carla-Object-Detection-Dataset",
        "MIT",
    ),
}


PRIVATE = {
    "name": "private",
    "origin": "portraits of members of the US Congress and of federal staff, as private people",
    "licence": "US government works and CC0-1.0; the pictures are not shipped",
    "is_private": True,
}


def provenance(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each set that a pack's manifest names: pictures, origin, licence, privacy."""
    return [
        {
            "name": name,
            "pictures": count,
            "origin": _SOURCES[name][0],
            "licence": _SOURCES[name][1],
            "is_private": False,
            "pack_names_sha256": manifest["names_sha256"],
        }
        for name, count in manifest["pictures"].items()
        if count
    ]
