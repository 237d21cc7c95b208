"""Bundles on disk: what `NAME.veil/manifest.json` says, checked before anything is loaded."""

import hashlib
import io
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from veilcam.camera import actor_code, layout_plan, painting
from veilcam.camera.code import HEAD_FIELDS, Field
from veilcam.camera.errors import GraphError

SCHEMA_VERSION = 1
PATCH_PX = 128
Precision = Literal["int8", "fp32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSpec:
    """What bundles of one mode have in common.

    Attributes:
        fields: Of the code.
        num_values: Length of the vector that the generator is given.
        patch_hw: Height and width of what it paints.
        local_dp: What the code's noise protects, where it has any.
    """

    fields: tuple[Field, ...]
    num_values: int
    patch_hw: tuple[int, int]
    local_dp: dict[str, Any] | None = None


MODES = {
    "face": ModeSpec(
        fields=HEAD_FIELDS, num_values=len(HEAD_FIELDS), patch_hw=(PATCH_PX, PATCH_PX)
    ),
    "scene": ModeSpec(
        fields=actor_code.DYNAMIC_FIELDS,
        num_values=actor_code.NUM_VALUES,
        patch_hw=actor_code.PATCH_HW,
    ),
    "frame": ModeSpec(
        fields=layout_plan.MANIFEST_FIELDS,
        num_values=painting.NUM_VALUES,
        patch_hw=painting.PATCH_HW,
        local_dp=layout_plan.statement(),
    ),
}
REQUIRED_FILES = ("fp32.onnx", "int8.onnx", "latents.npz", "model_card.md")
_CURE = "fetch the bundle again, or export it again with `veilcam export`"


def io_spec(num_latent: int, mode: str = "face") -> dict[str, dict[str, dict[str, Any]]]:
    """Names, shapes and dtypes that every graph of this schema has, as the manifest lists them."""
    spec = MODES[mode]
    return {
        "inputs": {
            "values": {"shape": [1, spec.num_values], "dtype": "float32"},
            "latent": {"shape": [1, num_latent], "dtype": "float32"},
        },
        "outputs": {"bgra": {"shape": [1, *spec.patch_hw, 4], "dtype": "uint8"}},
    }


def code_spec(mode: str = "face") -> dict[str, Any]:
    """The code field by field with its bits, as the manifest lists it."""
    fields = [
        {
            "name": field.name,
            "bits": field.bits,
            "low": field.low,
            "high": field.high,
            "kind": field.kind,
            "epsilon": None,
        }
        for field in MODES[mode].fields
    ]
    code = {"fields": fields, "bits_per_frame": sum(field["bits"] for field in fields)}
    return code if MODES[mode].local_dp is None else code | {"local_dp": MODES[mode].local_dp}


def default_bundle_path() -> Path:
    """The bundle of `face` mode that comes with the package; those of others lie beside it."""
    return Path(str(files("veilcam.camera.assets"))) / "face.veil"


def load_pins() -> dict[str, dict[str, str]]:
    """sha256 of every file of every bundle in the package: {bundle name: {file name: sha256}}."""
    path = default_bundle_path().parent / "pins.json"
    pins: dict[str, dict[str, str]] = json.loads(_read(path))
    return pins


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """One verified bundle.

    Attributes:
        path: Its folder.
        manifest: Its manifest, schema and shapes checked.
        sha256: Hash of the manifest, which lists the hash of every other file.
        is_pinned: True where the package itself vouches for every file.
        mean, chol: Gaussian of the latents: mean (z,) and lower Cholesky factor (z, z).
        skin: Linear guess of a latent's skin colour, BGR 0-255: skin[:, :z] @ latent + skin[:, z];
            0 in other modes than `face`.
    """

    path: Path
    manifest: dict[str, Any]
    sha256: str
    is_pinned: bool
    mean: Float32[np.ndarray, " z"]
    chol: Float32[np.ndarray, "z z"]
    skin: Float32[np.ndarray, "3 z1"]

    def graph_bytes(self, precision: Precision) -> bytes:
        """The graph of one precision, checked against its hash as it is read."""
        return self.file_bytes(f"{precision}.onnx")

    def file_bytes(self, name: str) -> bytes:
        """One file of the bundle, checked against its hash as it is read."""
        return _read_checked(self.path / name, self.manifest["files"][name])

    def describe(self) -> dict[str, Any]:
        """What `veilcam bundle show --json` prints."""
        keys = ("mode", "name", "code", "training", "data", "files")
        return {key: self.manifest[key] for key in keys}


def load_bundle(path: Path | str | None = None, *, mode: str | None = "face") -> Bundle:
    """The bundle of a folder, every file verified; the one in the package where path is None.

    Args:
        path: Folder NAME.veil.
        mode: That the bundle must be of; None takes any.

    Raises:
        GraphError: A file is missing or changed, or schema, code or shapes are not this version's.
    """
    default = default_bundle_path()
    folder = Path(path) if path is not None else default.with_name(f"{mode or 'face'}.veil")
    if not folder.is_dir():
        raise GraphError(f"bundle {folder} is not a folder, wanted NAME.veil/; {_CURE}")
    pins = _pins_of(folder)
    raw = _read(folder / "manifest.json")
    sha256 = hashlib.sha256(raw).hexdigest()
    if pins is not None:
        _check_hash(folder / "manifest.json", raw, pins.get("manifest.json", "no pin"))
    manifest = _parse_manifest(folder, raw, mode)
    for name, wanted in manifest["files"].items():
        data = _read_checked(folder / name, wanted)
        if pins is not None:
            _check_hash(folder / name, data, pins.get(name, "no pin"))
    mean, chol, skin = _load_latents(folder, manifest)
    return Bundle(
        path=folder,
        manifest=manifest,
        sha256=sha256,
        is_pinned=pins is not None,
        mean=mean,
        chol=chol,
        skin=skin,
    )


def _pins_of(folder: Path) -> dict[str, str] | None:
    """Pins of a bundle inside the package, None for one from elsewhere."""
    if folder.resolve().parent != default_bundle_path().parent.resolve():
        return None
    pins = load_pins()
    if folder.name not in pins:
        raise GraphError(f"bundle {folder} is in the package but not pinned in pins.json; {_CURE}")
    return pins[folder.name]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GraphError(f"bundle file {path} cannot be read ({reason}); {_CURE}") from error


def _check_hash(path: Path, data: bytes, wanted: str) -> None:
    got = hashlib.sha256(data).hexdigest()
    if got != wanted:
        raise GraphError(
            f"bundle file {path} was changed: sha256 {got[:16]}, wanted {wanted[:16]}; {_CURE}"
        )


def _read_checked(path: Path, wanted: str) -> bytes:
    data = _read(path)
    _check_hash(path, data, wanted)
    return data


def _parse_manifest(folder: Path, raw: bytes, mode: str | None) -> dict[str, Any]:
    """The manifest with schema, file list, code and shapes checked."""
    where = f"bundle {folder}"
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise GraphError(f"{where}: manifest.json is not JSON ({error}); {_CURE}") from error
    if not isinstance(manifest, dict):
        raise GraphError(f"{where}: manifest.json holds no object; {_CURE}")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise GraphError(
            f"{where}: schema_version {version!r}, wanted {SCHEMA_VERSION}; export the run again"
            " with this version of veilcam"
        )
    _check_files(where, manifest.get("files"))
    if missing := [k for k in ("mode", "name", "training", "data") if k not in manifest]:
        raise GraphError(f"{where}: manifest.json lacks {', '.join(missing)}; {_CURE}")
    allowed = (mode,) if mode else tuple(MODES)
    if manifest["mode"] not in allowed:
        raise GraphError(
            f"{where}: mode {manifest['mode']!r}, wanted {' or '.join(map(repr, allowed))}; choose"
            " another bundle"
        )
    _check_equal(where, "code", manifest.get("code"), code_spec(manifest["mode"]))
    try:
        num_latent = int(manifest["inputs"]["latent"]["shape"][1])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise GraphError(f"{where}: manifest.json states no latent shape; {_CURE}") from error
    for key, wanted in io_spec(num_latent, manifest["mode"]).items():
        _check_equal(where, key, manifest.get(key), wanted)
    return manifest


def _check_files(where: str, listed: object) -> None:
    if not isinstance(listed, dict) or not set(REQUIRED_FILES) <= set(listed):
        got = sorted(map(str, listed)) if isinstance(listed, dict) else listed
        raise GraphError(f"{where}: files lists {got}, wanted {sorted(REQUIRED_FILES)}; {_CURE}")
    for name, sha256 in listed.items():
        if Path(name).name != name or not isinstance(sha256, str):
            raise GraphError(f"{where}: files entry {name!r} is no plain file name; {_CURE}")


def _check_equal(where: str, key: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise GraphError(
            f"{where}: {key} is {json.dumps(got)[:160]}, wanted {json.dumps(wanted)[:160]};"
            " export the run again with this version of veilcam"
        )


def _load_latents(
    folder: Path, manifest: dict[str, Any]
) -> tuple[Float32[np.ndarray, " z"], Float32[np.ndarray, "z z"], Float32[np.ndarray, "3 z1"]]:
    name = "latents.npz"
    raw = _read_checked(folder / name, manifest["files"][name])
    size = manifest["inputs"]["latent"]["shape"][1]
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            mean, chol = arrays["mean"], arrays["chol"]
            has_skin = manifest["mode"] == "face"
            skin = arrays["skin"] if has_skin else np.zeros((3, size + 1), np.float32)
    except (ValueError, KeyError, OSError) as error:
        raise GraphError(f"{folder / name} holds no mean, chol and skin; {_CURE}") from error
    wanted = [(size,), (size, size), (3, size + 1)]
    got = [array.shape for array in (mean, chol, skin)]
    if got != wanted:
        raise GraphError(f"{folder / name}: shapes {got}, wanted {wanted}; {_CURE}")
    if not all(np.isfinite(array).all() for array in (mean, chol, skin)):
        raise GraphError(f"{folder / name} holds numbers that are not finite; {_CURE}")
    return mean.astype(np.float32), chol.astype(np.float32), skin.astype(np.float32)
