"""Writes a before/after contact sheet of the bundled public demo clip: demo_sheet.py MP4 PNG.

Raw pixels are written here and nowhere else: only those of the clip that ships with the package.
"""

import os
import sys
from importlib.resources import as_file, files
from pathlib import Path

import av
import cv2
import numpy as np

COLUMNS = 6
TILE_WIDTH = 320


def _tiles(path: Path) -> list[np.ndarray]:
    """`COLUMNS` frames spread evenly over a clip, each (h, 320, 3) uint8 BGR."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    picks = np.linspace(0, len(frames) - 1, COLUMNS + 2).round().astype(int)[1:-1]
    height = round(frames[0].shape[0] * TILE_WIDTH / frames[0].shape[1])
    return [cv2.resize(frames[i], (TILE_WIDTH, height), interpolation=cv2.INTER_AREA) for i in picks]


def main() -> None:
    """Original row above, output row below, written under a temporary name and renamed."""
    output_clip, sheet = Path(sys.argv[1]), Path(sys.argv[2])
    with as_file(files("veilcam.camera.assets") / "demo.mkv") as original:
        rows = [np.hstack(_tiles(original)), np.hstack(_tiles(output_clip))]
    for row, label in zip(rows, ("before", "after"), strict=True):
        for thickness, colour in ((4, (0, 0, 0)), (1, (255, 255, 255))):
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(row, label, (10, 26), font, 0.8, colour, thickness, cv2.LINE_AA)
    is_encoded, data = cv2.imencode(".png", np.vstack(rows))
    assert is_encoded
    part = sheet.with_name(f".{sheet.name}.{os.getpid()}.part")
    part.write_bytes(data.tobytes())
    part.replace(sheet)


if __name__ == "__main__":
    main()
