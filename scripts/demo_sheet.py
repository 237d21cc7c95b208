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

COLUMNS = 5
TILE_WIDTH = 360
TOP, BOTTOM, LEFT, RIGHT = 0.0, 0.6, 0.22, 0.78  # of the frame: where the clip's person stands


def _tiles(path: Path) -> list[np.ndarray]:
    """`COLUMNS` frames spread evenly over a clip, each (h, 360, 3) uint8 BGR."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    picks = np.linspace(0, len(frames) - 1, COLUMNS + 2).round().astype(int)[1:-1]
    full_height, full_width = frames[0].shape[:2]
    rows = slice(round(TOP * full_height), round(BOTTOM * full_height))
    columns = slice(round(LEFT * full_width), round(RIGHT * full_width))
    crops = [frames[pick][rows, columns] for pick in picks]
    height = round(crops[0].shape[0] * TILE_WIDTH / crops[0].shape[1])
    size = (TILE_WIDTH, height)
    return [cv2.resize(crop, size, interpolation=cv2.INTER_LINEAR) for crop in crops]


def main() -> None:
    """Original row above, output row below, written under a temporary name and renamed."""
    output_clip, sheet = Path(sys.argv[1]), Path(sys.argv[2])
    with as_file(files("veilcam.camera.assets") / "demo.mkv") as original:
        rows = [np.hstack(_tiles(original)), np.hstack(_tiles(output_clip))]
    for row, label in zip(rows, ("before", "after"), strict=True):
        cv2.rectangle(row, (0, 0), (96, 32), (0, 0, 0), cv2.FILLED)
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(row, label, (10, 23), font, 0.7, (255, 255, 255), 1, cv2.LINE_AA)
    is_encoded, data = cv2.imencode(".png", np.vstack(rows))
    assert is_encoded
    part = sheet.with_name(f".{sheet.name}.{os.getpid()}.part")
    part.write_bytes(data.tobytes())
    part.replace(sheet)


if __name__ == "__main__":
    main()
