"""Parts private people into those the shipped bundle was trained on and those it was not.

    python scripts/part_people.py PEOPLE OUT

Makes OUT/members and OUT/non_members, each a manifest.csv and links to the pictures, for `veilcam
audit` with --people and --non-members OUT/non_members, --learn-on and --members OUT/members.
"""

import argparse
import csv
import sys
from pathlib import Path

from veilcam.model.private_latents import is_held_out


def main() -> int:
    """Writes both folders; says how many people each has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("people", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    with (arguments.people / "manifest.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("colour") != "0"]
    for name, is_out in (("members", False), ("non_members", True)):
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [row for row in rows if is_held_out(row["person"]) == is_out]
        with (folder / "manifest.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ("file", "person"), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(chosen)
        for row in chosen:
            link = folder / row["file"]
            link.unlink(missing_ok=True)
            link.symlink_to((arguments.people / row["file"]).absolute())
        num_people = len({row["person"] for row in chosen})
        sys.stdout.write(f"{folder}: {num_people} people, {len(chosen)} pictures\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
