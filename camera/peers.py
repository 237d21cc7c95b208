"""What others do to the same frames, for `veilcam bench --compare`."""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.errors import ConfigError
from veilcam.camera.faces import COARSE_AREA_PX
from veilcam.camera.regions import fit
from veilcam.camera.yunet import GRID_PX, YuNet, merge

Peer = Callable[[UInt8[np.ndarray, "h w 3"]], None]
_DEFACE_THRESHOLD = 0.2  # its own defaults
_DEFACE_MASK_SCALE = 1.3
_BLUR_MASK_SCALE = 1.3


def load_peers() -> dict[str, Peer]:
    """Every peer by name; each changes a frame of its own in place.

    Raises:
        ConfigError: deface is not installed.
    """
    return {"deface": _load_deface(), "opencv_blur": _load_blur()}


def _load_deface() -> Peer:
    """Deface at full resolution with its defaults, its models loaded once."""
    if importlib.util.find_spec("deface") is None:
        raise ConfigError(
            "deface is not installed, wanted for --compare; run `./scripts/setup bench` (or"
            " `pip install veilcam[bench]` and then `pip install --no-deps deface`)"
        )
    from deface.centerface import CenterFace
    from deface.deface import anonymize_frame

    with contextlib.redirect_stdout(io.StringIO()):  # it prints; stdout is for our JSON
        centerface = CenterFace(in_shape=None, backend="auto")

    def run(bgr: UInt8[np.ndarray, "h w 3"]) -> None:
        detections, _ = centerface(bgr, threshold=_DEFACE_THRESHOLD)
        anonymize_frame(
            detections,
            bgr,
            mask_scale=_DEFACE_MASK_SCALE,
            replacewith="blur",
            ellipse=True,
            draw_scores=False,
            replaceimg=None,
            mosaicsize=20,
        )

    return run


def _load_blur() -> Peer:
    """The face detector on each small frame and a Gaussian blur of the boxes, nothing tracked."""
    net = YuNet(Path(str(files("veilcam.camera") / "assets")) / "yunet.onnx")

    def run(bgr: UInt8[np.ndarray, "h w 3"]) -> None:
        height, width = bgr.shape[:2]
        small_w, small_h = fit(width, height, COARSE_AREA_PX)
        small = cv2.resize(bgr, (small_w, small_h), interpolation=cv2.INTER_LINEAR)
        pad_y, pad_x = -small_h % GRID_PX, -small_w % GRID_PX
        small = cv2.copyMakeBorder(small, 0, pad_y, 0, pad_x, cv2.BORDER_CONSTANT)
        for face in merge(net(small, (width / small_w, height / small_h))):
            left, top, width_px, height_px = face.box_xywh
            grow_x, grow_y = ((_BLUR_MASK_SCALE - 1) / 2 * side for side in (width_px, height_px))
            x0, y0 = max(int(left - grow_x), 0), max(int(top - grow_y), 0)
            bottom, right = int(top + height_px + grow_y) + 1, int(left + width_px + grow_x) + 1
            region = bgr[y0 : max(bottom, 0), x0 : max(right, 0)]
            if region.size:
                region[:] = cv2.GaussianBlur(region, (0, 0), max(width_px, 8.0) / 6)

    return run


def peer_backend() -> str:
    """The runtime deface chooses by itself: onnxruntime where the onnx package is there."""
    return "onnxruntime" if importlib.util.find_spec("onnx") is not None else "opencv"
