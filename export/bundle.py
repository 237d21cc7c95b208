"""A trained run becomes a bundle: graphs, latents, manifest, model card, all hashes."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from veilcam.camera.code import HEAD_FIELDS, dequantize_levels
from veilcam.camera.compose import patch_skin
from veilcam.camera.errors import GraphError, InputError
from veilcam.camera.manifest import SCHEMA_VERSION, code_spec, io_spec, load_bundle
from veilcam.export.graph import GenerateFn, build_graph
from veilcam.export.parity import ParityReport, check_parity, paint
from veilcam.export.quantize import Feed, QuantizationReport, make_feeds, quantize_graph

NUM_CALIBRATION_CODES = 64
NUM_PARITY_CODES = 48
MAX_FP32_CONVS = 3
NUM_SKIN_CODES = 400
SKIN_RIDGE = 10.0


def draw_feeds(
    mean: np.ndarray,
    chol: np.ndarray,
    num_codes: int,
    *,
    seed: int,
    truncation: float = 0.8,
) -> list[Feed]:
    """Codes as the loop will send them: any level of every field, latents of the Gaussian.

    The seed fixes calibration only; latents of real tracks come from the operating system.
    Half of the codes sit near the middle of each range, where heads mostly are.
    """
    random = np.random.default_rng(seed)
    tops = np.asarray([2**field.bits for field in HEAD_FIELDS])
    unit = random.random((num_codes, len(tops)))
    unit[: num_codes // 2] = random.beta(4, 4, (num_codes // 2, len(tops)))
    levels = np.minimum((unit * tops).astype(np.int64), tops - 1)
    noise = random.standard_normal((num_codes, mean.shape[0])).astype(np.float32)
    latents = (mean + truncation * noise @ chol.T).astype(np.float32)
    return make_feeds(dequantize_levels(levels), latents)


def export_run(run_dir: Path, target: Path, *, name: str = "face") -> dict[str, Any]:
    """Export a training run to the bundle `target` and return its manifest.

    Raises:
        GraphError: int8 and fp32 differ too much.
        InputError: The target exists and is no bundle, or its name does not end in .veil.
    """
    from veilcam.model.checkpoint import load_generator

    generator, meta, latents = load_generator(run_dir)
    return export_generator(generator.paint, meta, latents, target, name=name)


def export_generator(
    generator: GenerateFn,
    meta: dict[str, Any],
    latents: dict[str, np.ndarray],
    target: Path,
    *,
    name: str = "face",
) -> dict[str, Any]:
    """As `export_run`, for a generator in memory."""
    _check_target(target)
    mean = np.asarray(latents["mean"], np.float32)
    chol = np.asarray(latents["chol"], np.float32)
    num_latent = mean.shape[0]
    fp32 = build_graph(generator, num_values=len(HEAD_FIELDS), num_latent=num_latent)
    seen = draw_feeds(mean, chol, NUM_CALIBRATION_CODES, seed=0)
    unseen = draw_feeds(mean, chol, NUM_PARITY_CODES, seed=1)
    int8, quantization, parity = _quantize_until_alike(fp32, seen, unseen)
    head = {
        **_manifest_head(name, meta, quantization, parity),
        **io_spec(num_latent),
    }
    drawn = draw_feeds(mean, chol, NUM_SKIN_CODES, seed=2)
    arrays = {"mean": mean, "chol": chol, "skin": fit_skin(fp32, drawn)}
    return _write_bundle(target, head, {"fp32": fp32, "int8": int8}, arrays)


def _quantize_until_alike(
    fp32: ModelProto, seen: list[Feed], unseen: list[Feed]
) -> tuple[ModelProto, QuantizationReport, ParityReport]:
    """Int8 with the last convolutions in fp32, as few as pass the parity gate.

    Errors of the last ones are seen as they are; on the first generators, which used tanh and a
    per-channel scale, leaving the last in fp32 was worth 9 dB, the one before it another 5 dB.
    """
    convs = [node.name for node in fp32.graph.node if node.op_type == "Conv"]
    for num_fp32 in range(MAX_FP32_CONVS + 1):
        left = convs[len(convs) - num_fp32 :]
        int8, report = quantize_graph(fp32, seen, excluded=left, max_fp32_nodes=0)
        try:
            return int8, report, check_parity(fp32, int8, unseen)
        except GraphError:
            if num_fp32 == MAX_FP32_CONVS:
                raise
    raise AssertionError("the loop above returns or raises")


def fit_skin(fp32: ModelProto, feeds: list[Feed]) -> np.ndarray:
    """Ridge regression of the painted skin colour on the latent, (3, z + 1)."""
    pairs = [
        (feed["latent"][0], skin)
        for feed, bgra in zip(feeds, paint(fp32, feeds), strict=True)
        if (skin := patch_skin(bgra)) is not None
    ]
    num_latent = feeds[0]["latent"].shape[1]
    if not pairs:  # nothing opaque was painted: parity has seen to it that this is a test graph
        return np.zeros((3, num_latent + 1), np.float32)
    latents, colours = (np.stack(column) for column in zip(*pairs, strict=True))
    inputs = np.concatenate([latents, np.ones((len(latents), 1))], axis=1)
    ridge = np.diag([*[SKIN_RIDGE] * num_latent, 1e-6])
    return np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ colours).T.astype(np.float32)


def _check_target(target: Path) -> None:
    if target.suffix != ".veil":
        raise InputError(f"bundle {target} must end in .veil; choose -o NAME.veil")
    if target.exists() and not (target / "manifest.json").is_file():
        raise InputError(f"{target} exists and is no bundle; choose another name or remove it")


def _manifest_head(
    name: str,
    meta: dict[str, Any],
    quantization: QuantizationReport,
    parity: ParityReport,
) -> dict[str, Any]:
    """The manifest but for its file list."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "mode": "face",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "code": code_spec(),
        "training": meta.get("training"),  # None where no private picture was used
        "run": {k: v for k, v in meta.items() if k not in ("data", "training")},
        "data": meta.get("data", []),
        "metrics": {
            "parity": asdict(parity),
            "sqnr_db": {k: round(v, 2) for k, v in sorted(quantization.sqnr_db.items())},
            "fp32_nodes": list(quantization.fp32_nodes),
        },
    }


def _write_bundle(
    target: Path,
    head: dict[str, Any],
    graphs: dict[str, ModelProto],
    arrays: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Write into a temporary folder beside the target, verify, then put it in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for precision, model in graphs.items():
            (folder / f"{precision}.onnx").write_bytes(model.SerializeToString())
        np.savez(folder / "latents.npz", **arrays)
        (folder / "model_card.md").write_text(model_card(head))
        hashes = {p.name: hash_file(p) for p in sorted(folder.iterdir())}
        manifest = {**head, "files": hashes}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, default=str) + "\n")
        folder.chmod(0o755)
        load_bundle(folder)
        _put_in_place(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the finished folder to the target's name; an old bundle there goes last."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    folder.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def hash_file(path: Path) -> str:
    """sha256 of a file in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_pins(assets: Path) -> dict[str, dict[str, str]]:
    """Pin every file of every bundle in the package's assets folder in its pins.json."""
    pins = {
        bundle.name: {p.name: hash_file(p) for p in sorted(bundle.iterdir())}
        for bundle in sorted(assets.glob("*.veil"))
    }
    temporary = assets / ".pins.json.tmp"
    temporary.write_text(json.dumps(pins, indent=1) + "\n")
    temporary.replace(assets / "pins.json")
    return pins


def _promise(training: dict[str, Any] | None) -> str:
    """The training promise in one sentence."""
    if training is None:
        return "No private picture was used in training, so no differential privacy is claimed."
    return (
        f"Trained under ({training['epsilon']:.3g}, {training['delta']:.0e})-differential privacy,"
        f" unit: {training['unit']}, relation: {training['relation']}, accountant:"
        f" {training['accountant']}."
    )


def model_card(head: dict[str, Any]) -> str:
    """The card for people: what it is, from what, how good, what it must not be used for."""
    parity = head["metrics"]["parity"]
    data = "\n".join(
        f"- {entry['name']}: {entry['pictures']} pictures; {entry['origin']};"
        f" licence: {entry['licence']}"
        for entry in head["data"]
    )
    run = head["run"]
    return f"""# {head["name"]}: head generator

Paints a 128x128 head (BGR and alpha) of a person who does not exist, from
{head["code"]["bits_per_frame"]} bits per frame and secret noise. Mode: {head["mode"]}.
Exported {head["created"]}.

## Data
{data or "- not stated"}

## Training
{run.get("step", 0)} steps of `veilcam train` with this configuration:
`{json.dumps(run.get("config", {}))}`

## Privacy
{_promise(head["training"])} A stand-in shows of
the head it replaces at most the code listed in `manifest.json`, its place and its skin colour;
everything else in the picture (body, hands, clothes, room) stays as it is in this mode.

## Quality
int8 against fp32: PSNR {parity["psnr_db"]:.1f} dB over {parity["num_codes"]} codes
(worst {parity["worst_psnr_db"]:.1f} dB). Layers left in fp32: {len(head["metrics"]["fp32_nodes"])}.

## Limits
Trained on few pictures: faces are soft and looks are not balanced over people. Not for
identification, deception or statistics about people.
"""
