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
from veilcam.camera.manifest import MODES, SCHEMA_VERSION, code_spec, io_spec, load_bundle
from veilcam.export.graph import GenerateFn, build_graph
from veilcam.export.parity import ParityReport, check_parity, paint
from veilcam.export.quantize import Feed, QuantizationReport, make_feeds, quantize_graph
from veilcam.export.round_weights import round_weights
from veilcam.export.widen import plan_splits, widen

NUM_CALIBRATION_CODES = 64
NUM_PARITY_CODES = 48
NUM_PLANNING_CODES = 16  # more hold rarer peaks, and room for them is steps that all others lack
NUM_ROUNDING_CODES = 24
# (channels that may be cut, as a share; last convolutions left in fp32), cheapest first
_ATTEMPTS = ((0.0, 0), (0.25, 0), (0.5, 0), (0.5, 1), (0.5, 2))
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
    from veilcam.model.checkpoint import load_generator, read_meta

    if read_meta(run_dir)["config"].get("generator") == "actor":
        from veilcam.export.actor import export_actor

        return export_actor(run_dir, target)
    if read_meta(run_dir)["config"].get("generator") == "painter":
        from veilcam.export.painter import export_painter

        return export_painter(run_dir, target)
    generator, meta, latents = load_generator(run_dir)
    return export_generator(generator.paint, meta, latents, target, name=name)


def export_generator(
    generator: GenerateFn,
    meta: dict[str, Any],
    latents: dict[str, np.ndarray],
    target: Path,
    *,
    name: str = "face",
    mode: str = "face",
    feeds: list[list[Feed]] | None = None,
    arrays: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """As `export_run`, for a generator in memory.

    Args:
        generator: One example: values and latent to a picture.
        meta: Facts of the run.
        latents: `mean` and `chol` of the latents.
        target: Folder NAME.veil.
        name: Of the bundle.
        mode: Whose code the generator reads.
        feeds: Codes to calibrate on and codes to compare on; by default drawn for `face`.
        arrays: Kept beside mean and chol; by default skin colours, fitted.
    """
    _check_target(target)
    mean = np.asarray(latents["mean"], np.float32)
    chol = np.asarray(latents["chol"], np.float32)
    num_latent = mean.shape[0]
    exact = build_graph(generator, num_values=MODES[mode].num_values, num_latent=num_latent)
    seen, unseen = feeds or (
        draw_feeds(mean, chol, NUM_CALIBRATION_CODES, seed=0),
        draw_feeds(mean, chol, NUM_PARITY_CODES, seed=1),
    )
    fp32, int8, quantization, parity = _quantize_until_alike(exact, seen, unseen)
    rounding = check_parity(exact, fp32, unseen, floor_db=0.0)
    head = {
        **_manifest_head(name, mode, meta, quantization, parity, rounding),
        **io_spec(num_latent, mode),
    }
    if arrays is None:
        arrays = {"skin": fit_skin(fp32, draw_feeds(mean, chol, NUM_SKIN_CODES, seed=2))}
    arrays = {"mean": mean, "chol": chol} | arrays
    return _write_bundle(target, head, {"fp32": fp32, "int8": int8}, arrays)


def _quantize_until_alike(
    exact: ModelProto, seen: list[Feed], unseen: list[Feed]
) -> tuple[ModelProto, ModelProto, QuantizationReport, ParityReport]:
    """Graphs fp32 and int8 with the same weights on int8's grid, alike enough to pass the gate.

    Cutting channels (`export.widen`) is worth more than leaving convolutions in fp32: the error of
    the head generator came from one map, between two convolutions, and 16 channels mended it.
    """
    convs = [node.name for node in exact.graph.node if node.op_type == "Conv"]
    for extra, num_fp32 in _ATTEMPTS:
        plan = plan_splits(exact, seen[:NUM_PLANNING_CODES], extra=extra)
        gains = {split.reader: split.gains for split in plan.values()}
        fp32 = round_weights(exact, seen[:NUM_ROUNDING_CODES], gains)
        left = convs[len(convs) - num_fp32 :]
        int8, report = quantize_graph(widen(fp32, plan), seen, excluded=left, max_fp32_nodes=0)
        try:
            return fp32, int8, report, check_parity(fp32, int8, unseen)
        except GraphError:
            if (extra, num_fp32) == _ATTEMPTS[-1]:
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
    mode: str,
    meta: dict[str, Any],
    quantization: QuantizationReport,
    parity: ParityReport,
    rounding: ParityReport,
) -> dict[str, Any]:
    """The manifest but for its file list."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "mode": mode,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "code": code_spec(mode),
        "training": meta.get("training"),  # None where no private picture was used
        "run": {k: v for k, v in meta.items() if k not in ("data", "training")},
        "data": meta.get("data", []),
        "metrics": {
            "parity": asdict(parity),
            "rounded_weights": asdict(rounding),  # fp32 as trained against fp32 on int8's grid
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
        load_bundle(folder, mode=head["mode"])
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


_CARDS = {
    "face": (
        "head",
        "A stand-in shows of\nthe head it replaces at most the code listed in `manifest.json`, its"
        " place and its skin colour;\neverything else in the picture (body, hands, clothes, room)"
        " stays as it is in this mode.",
        "Trained on few pictures: faces are soft and looks are not balanced over people.",
    ),
    "scene": (
        "whole person",
        "An actor shows of\nthe person it replaces at most the code listed in `manifest.json`, its"
        " place and classes of colours\nunder randomized response (docs/scene.md). Pose tells"
        " build and gait.",
        "Trained on simulated people in 12 outfits: game-like, no coats, bags, hats or children.",
    ),
    "frame": (
        "scene",
        "A picture shows of\nthe scene at most the code listed in `manifest.json`: cells of colour"
        " under local differential\nprivacy, whose unit, epsilon and assumptions stand there, and"
        " persons as tokens that are\nquantized, not noised (docs/frame.md).",
        "Trained on 930 views of 18 places and of a simulated city: it looks like a painting.",
    ),
}


def _amount(entry: dict[str, Any]) -> str:
    """Of public sets pictures count, of private ones people: how many pictures is theirs."""
    if entry.get("is_private"):
        return f"{entry['people']} people, through the privacy mechanism alone"
    return f"{entry['pictures']} pictures"


def model_card(head: dict[str, Any]) -> str:
    """The card for people: what it is, from what, how good, what it must not be used for."""
    parity = head["metrics"]["parity"]
    data = "\n".join(
        f"- {entry['name']}: {_amount(entry)}; {entry['origin']}; licence: {entry['licence']}"
        for entry in head["data"]
    )
    run = head["run"]
    what, shows, limits = _CARDS[head["mode"]]
    return f"""# {head["name"]}: {what} generator

Paints a {head["outputs"]["bgra"]["shape"][2]}x{head["outputs"]["bgra"]["shape"][1]} {what} (BGR and
alpha) that does not exist, from
at most {head["code"]["bits_per_frame"]} bits per frame and secret noise. Mode: {head["mode"]}.
Exported {head["created"]}.

## Data
{data or "- not stated"}

## Training
{run.get("step", 0)} steps of `veilcam train` with this configuration:
`{json.dumps(run.get("config", {}))}`

## Privacy
{_promise(head["training"])} {shows}

## Quality
int8 against fp32: PSNR {parity["psnr_db"]:.1f} dB over {parity["num_codes"]} codes
(worst {parity["worst_psnr_db"]:.1f} dB). Layers left in fp32: {len(head["metrics"]["fp32_nodes"])}.
Both hold weights on int8's grid; as trained the fp32 graph is
{head["metrics"]["rounded_weights"]["psnr_db"]:.1f} dB from that.

## Limits
{limits} Not for
identification, deception or statistics about people.
"""
