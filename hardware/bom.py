"""The bill of materials of an image: CycloneDX 1.6 JSON out of what really was installed.

Debian's packages come from mkosi's manifest, Python's from the metadata that lies in the image's
tree, with the hashes of the lock.
"""

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

_NAMESPACE = uuid.UUID("6e6f626f-6479-5265-616c-5665696c6361")


def debian_components(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Components out of mkosi's manifest.

    Args:
        manifest: Its JSON: `packages` with `type`, `name`, `version`, `architecture`.
    """
    return [
        {
            "type": "library",
            "bom-ref": f"deb/{entry['name']}@{entry['version']}",
            "name": entry["name"],
            "version": entry["version"],
            "purl": f"pkg:deb/debian/{quote(entry['name'])}@{quote(entry['version'])}"
            f"?arch={entry.get('architecture', 'all')}&distro=debian-13",
        }
        for entry in manifest.get("packages", ())
        if entry.get("type") == "deb"
    ]


def python_components(site: Path, lock: str) -> list[dict[str, Any]]:
    """Components out of the `.dist-info` folders in `site`, hashes out of the lock's text."""
    hashes = _locked_hashes(lock)
    found = []
    for path in sorted(site.glob("*.dist-info/METADATA")):
        data = HeaderParser().parsestr(path.read_text(errors="replace"))
        name, version = str(data["Name"]), str(data["Version"])
        key = re.sub(r"[-_.]+", "-", name).lower()
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"pypi/{key}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{key}@{version}",
        }
        if licence := data["License-Expression"]:
            component["licenses"] = [{"expression": str(licence)}]
        if wheels := hashes.get(f"{key}=={version}"):
            values = ", ".join(wheels)
            component["properties"] = [{"name": "veilcam:one-of-sha256", "value": values}]
        found.append(component)
    return found


def make_bom(
    components: Iterable[Mapping[str, Any]], *, version: str, epoch: int, image_sha256: str
) -> str:
    """The whole document; the same input gives the same text.

    Args:
        components: What is in the image.
        version: The image's.
        epoch: Its time, seconds since 1970.
        image_sha256: Of the image file.
    """
    entries = sorted((dict(entry) for entry in components), key=lambda entry: entry["bom-ref"])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, image_sha256)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "operating-system",
                "bom-ref": "veilcam-image",
                "name": "veilcam",
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": image_sha256}],
            },
        },
        "components": entries,
    }
    return json.dumps(document, indent=1) + "\n"


def _locked_hashes(lock: str) -> dict[str, list[str]]:
    """`name==version` -> sha256 of the files it may have come from."""
    found: dict[str, list[str]] = {}
    for line in lock.replace("\\\n", " ").splitlines():
        words = line.split()
        if words and "==" in words[0]:
            key = words[0].split(";")[0].lower()
            found[key] = [word.rpartition(":")[2] for word in words if word.startswith("--hash")]
    return found
