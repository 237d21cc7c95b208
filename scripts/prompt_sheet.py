"""The sheet of docs/text.md: ten prompts, a row of people for each, drawn anew at every run.

Usage: python scripts/prompt_sheet.py BUNDLE -o docs/imagine.jpg
"""

import secrets
from pathlib import Path

import click
import cv2
import numpy as np

from veilcam.camera.imagine import CELL_PX, paint_people
from veilcam.camera.manifest import load_bundle
from veilcam.camera.text import TextPart

PROMPTS = (
    "a young woman with long black hair",
    "a man with short brown hair",
    "a woman with short hair and dark skin",
    "a man with light skin and black hair",
    "an old man with glasses, smiling",
    "a girl with blond hair",
    "a bearded man",
    "a laughing woman looking left",
    "a man looking right, mouth open",
    "a woman with closed eyes",
)
_SHOWN_PX = 112
_COLUMNS = 8


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="JPEG.")
def main(bundle: Path, out: Path) -> None:
    """Paint the sheet of BUNDLE's text part."""
    loaded = load_bundle(bundle)
    part = TextPart(loaded)
    random = np.random.default_rng(secrets.randbits(128))
    rows = []
    for prompt in PROMPTS:
        ids, _ = part.read(prompt)
        people = [part.draw(ids, random) for _ in range(_COLUMNS)]
        sheet = paint_people(people, loaded, columns=_COLUMNS).bgr
        size_wh = (_COLUMNS * _SHOWN_PX, _SHOWN_PX * sheet.shape[0] // CELL_PX)
        title = np.full((18, size_wh[0], 3), 255, np.uint8)
        cv2.putText(
            title, prompt, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
        )
        rows += [title, cv2.resize(sheet, size_wh, interpolation=cv2.INTER_AREA)]
    cv2.imwrite(str(out), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == "__main__":
    main()
