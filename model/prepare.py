"""Public pictures -> one training pack: aligned RGBA heads, meshes, code values. Below 60 MiB.

python -m veilcam.model.prepare DATA -o faces.npz
"""

import csv
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime as ort
from jaxtyping import Float32, UInt8

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.eyes import measure_gaze
from veilcam.camera.face_mesh import BOX_FACTOR, FaceMesh, similarity
from veilcam.camera.head_model import (
    EXPRESSION_FIELDS,
    fit_pose,
    measure_expression,
    patch_placement,
)
from veilcam.camera.shading import measure_light
from veilcam.model.head_basis import POINTS, fit_basis

_log = logging.getLogger(__name__)
PATCH_PX = 128
DOMAINS = ("generated", "synthetic", "simulated")
GREY = 127
KEPT_POINTS = POINTS  # mesh points stored in the pack
OPEN_LID = 0.135  # median lid distance of portraits, eye distances
GAZE_PER_DEGREE = 0.008  # iris offset in eye widths for each degree of the eyeball


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A public picture before alignment: BGRA (alpha is the person's matte) and where it is from.

    `known` holds code values that the simulator states exactly, where a measurement is coarse.
    """

    name: str
    domain: int
    person: str
    bgra: UInt8[np.ndarray, "h w 4"]
    known: dict[str, float] = field(default_factory=dict)


def public_pictures(data: Path, *, with_generated: bool) -> Iterator[Picture]:
    """Every public picture of the data folder with a matte; private pictures are never opened."""
    matte = _Matte(data / "models" / "selfie_segmentation_256_f32.onnx")
    sets = [("synthetic", data / "faces/synthetic", data / "faces/synthetic")]
    if with_generated:
        sets.insert(0, ("generated", data / "faces/generated", data / "faces/generated/images"))
    for domain, folder, images in sets:
        with (folder / "manifest.csv").open(newline="") as stream:
            for row in csv.DictReader(stream):
                bgr = cv2.imread(str(images / row["file"]))
                bgra = np.dstack([bgr, matte(bgr)])
                name = f"{domain}/{row['file']}"
                yield Picture(name=name, domain=DOMAINS.index(domain), person=name, bgra=bgra)
    heads = data / "persons/heads"
    labels = np.load(heads / "labels.npz", allow_pickle=False)
    for row, (name, identity) in enumerate(zip(labels["files"], labels["identity"], strict=True)):
        bgra = cv2.imread(str(heads / str(name)), cv2.IMREAD_UNCHANGED)
        person = f"simulated/{identity:04d}"
        known = _simulated_values(labels["unit_names"], labels["expression"][row])
        known["gaze_x"], known["gaze_y"] = GAZE_PER_DEGREE * labels["gaze_xy"][row] + (0, 0.05)
        yield Picture(name=f"simulated/{name}", domain=2, person=person, bgra=bgra, known=known)


def _simulated_values(
    unit_names: np.ndarray, expression: Float32[np.ndarray, " 52"]
) -> dict[str, float]:
    """Lids from the blink units: the mesh hardly sees a closed eye of a simulated head."""
    units = dict(zip((str(n) for n in unit_names), expression.tolist(), strict=True))
    out = {}
    for name, side in (("eyelid_left", "Right"), ("eyelid_right", "Left")):
        shut = min(units[f"eyeBlink{side}"] + 0.4 * units[f"eyeSquint{side}"], 1.0)
        wide = units[f"eyeWide{side}"]
        out[name] = OPEN_LID * (1 - shut) + 0.025 * wide
    return out


class _Matte:
    """Person matte by MediaPipe selfie segmentation."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
        rgb = cv2.resize(bgr, (256, 256), interpolation=cv2.INTER_CUBIC)[None, ..., ::-1]
        mask = self._session.run(None, {"input_1:0": rgb.astype(np.float32) / 255})[0][0, ..., 0]
        size = (bgr.shape[1], bgr.shape[0])
        return cv2.resize((mask * 255).clip(0, 255).astype(np.uint8), size)


class Aligner:
    """Finds the mesh of a picture and cuts the upright patch in the generator's framing."""

    def __init__(self) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self._mesh = FaceMesh(assets / "facemesh.onnx", threads=1)
        self._detector = cv2.FaceDetectorYN.create(
            str(assets / "yunet_320.onnx"), "", (320, 320), 0.4
        )

    def mesh(self, picture: Picture) -> Float32[np.ndarray, "468 3"] | None:
        """Mesh in picture pixels, or None where no face is found."""
        bgr = over_grey(picture.bgra)
        factor = 200 / max(bgr.shape[:2])
        small = cv2.resize(bgr, None, fx=factor, fy=factor)
        canvas = np.full((320, 320, 3), GREY, np.uint8)
        top, left = (320 - small.shape[0]) // 2, (320 - small.shape[1]) // 2
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        _, faces = self._detector.detect(canvas)
        if faces is None:
            return None
        face = faces[np.argmax(faces[:, 2] * faces[:, 3] * faces[:, -1])]
        roll = float(np.degrees(np.arctan2(face[7] - face[5], face[6] - face[4])))
        center = (float(face[0] + face[2] / 2), float(face[1] + face[3] / 2))
        mesh, _ = self._mesh(canvas, center, BOX_FACTOR * float(max(face[2:4])), roll)
        mesh[:, :2] -= (left, top)
        return mesh / np.float32(factor)


def over_grey(bgra: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture laid over flat grey by its alpha."""
    alpha = bgra[..., 3:].astype(np.float32) / 255
    return (bgra[..., :3] * alpha + GREY * (1 - alpha)).astype(np.uint8)


def align(
    picture: Picture, mesh: Float32[np.ndarray, "468 3"]
) -> tuple[UInt8[np.ndarray, "128 128 4"], Float32[np.ndarray, "468 3"], dict[str, float]] | None:
    """Patch, mesh in patch pixels and code values of one picture; None where the fit is bad."""
    pose = fit_pose(mesh)
    center, side = patch_placement(pose)
    if not 20 < side < 4 * max(picture.bgra.shape) or abs(pose.yaw_deg) > 70:
        return None
    matrix = similarity(center, side, pose.roll_deg, PATCH_PX)
    border = cv2.BORDER_CONSTANT if picture.domain == 2 else cv2.BORDER_REPLICATE
    patch = cv2.warpAffine(
        picture.bgra, matrix, (PATCH_PX, PATCH_PX), flags=cv2.INTER_AREA, borderMode=border
    )
    moved = mesh.copy()
    moved[:, :2] = mesh[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    moved[:, 2] = mesh[:, 2] * (PATCH_PX / side)
    patch[..., 3] = (patch[..., 3] * neck_window(moved)).astype(np.uint8)
    values = {"yaw": pose.yaw_deg, "pitch": pose.pitch_deg, **measure_expression(pose.canonical)}
    bgr = over_grey(patch)
    values["gaze_x"], values["gaze_y"] = measure_gaze(bgr, moved)
    values["light_x"], values["light_y"] = measure_light(bgr, moved)
    return patch, moved, values | picture.known


def neck_window(mesh: Float32[np.ndarray, "468 3"]) -> Float32[np.ndarray, "128 128"]:
    """1 over head and hair, falling to 0 below the chin: shoulders stay the camera's own."""
    chin, brow = mesh[152, :2], mesh[9, :2]
    down = chin - brow
    length = float(np.linalg.norm(down))
    down = down / length
    ys, xs = np.mgrid[:PATCH_PX, :PATCH_PX].astype(np.float32) + 0.5
    below = ((xs - chin[0]) * down[0] + (ys - chin[1]) * down[1]) / length
    sideways = ((xs - chin[0]) * -down[1] + (ys - chin[1]) * down[0]) / length
    window = np.clip((0.42 - below - 0.25 * sideways**2) / 0.3, 0, 1)
    return (window * window * (3 - 2 * window)).astype(np.float32)


def build_pack(data: Path, out: Path, *, with_generated: bool = True, limit: int = 0) -> None:
    """Writes the pack; see `model.data.Pack` for its arrays."""
    aligner = Aligner()
    rows: list[tuple[Picture, np.ndarray, np.ndarray, dict[str, float]]] = []
    for count, picture in enumerate(public_pictures(data, with_generated=with_generated)):
        if limit and count >= limit:
            break
        mesh = aligner.mesh(picture)
        aligned = None if mesh is None else align(picture, mesh)
        if aligned is not None:
            rows.append((picture, *aligned))
        if count % 500 == 0:
            _log.info("%d pictures, %d kept", count, len(rows))
    write_pack(rows, out)


def write_pack(
    rows: list[tuple[Picture, np.ndarray, np.ndarray, dict[str, float]]], out: Path
) -> None:
    """Compresses the aligned pictures and stores them with their head model."""
    values = np.array([[v[f.name] for f in HEAD_FIELDS] for *_, v in rows], np.float32)
    expression = values[:, 2 : 2 + len(EXPRESSION_FIELDS)]
    meshes = np.stack([mesh for _, _, mesh, _ in rows])
    canonical = np.stack([fit_pose(mesh).canonical for mesh in meshes])
    domain = np.array([picture.domain for picture, *_ in rows], np.int8)
    weight = np.where(domain == 2, 0.5, 1.0).astype(np.float32)
    basis, shape = fit_basis(canonical, expression, values, weight)
    people = sorted({picture.person for picture, *_ in rows})
    index = {person: i for i, person in enumerate(people)}
    blobs, ends = [], []
    for _, patch, *_ in rows:
        for image, quality in ((patch[..., :3], 88), (patch[..., 3], 85)):
            encoded = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
            blobs.append(encoded.reshape(-1))
            ends.append(len(encoded))
    digest = hashlib.sha256("\n".join(p.name for p, *_ in rows).encode()).hexdigest()
    manifest = {
        "pictures": {name: int((domain == i).sum()) for i, name in enumerate(DOMAINS)},
        "names_sha256": digest,
    }
    partial = out.with_suffix(".partial.npz")
    np.savez(
        partial,
        blob=np.concatenate(blobs),
        ends=np.cumsum(ends),
        mesh=np.round(meshes[:, KEPT_POINTS] * 64).astype(np.int16),
        values=values,
        shape=shape.astype(np.float16),
        domain=domain,
        person=np.array([index[p.person] for p, *_ in rows], np.int32),
        people=np.array(people),
        manifest=np.array(json.dumps(manifest)),
        **{f"basis_{name}": array for name, array in basis.items()},
    )
    partial.rename(out)
    _log.info("%s: %d pictures, %.1f MiB", out, len(rows), out.stat().st_size / 2**20)


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--with-generated/--no-with-generated", default=True, help="Use faces/generated.")
@click.option("--limit", default=0, help="Stop after this many pictures (0: all).")
def main(data: Path, out: Path, with_generated: bool, limit: int) -> None:
    """Prepare the training pack from the data folder DATA."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build_pack(data, out, with_generated=with_generated, limit=limit)


if __name__ == "__main__":
    main()
