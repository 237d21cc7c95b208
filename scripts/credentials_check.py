"""Whether validators that Veilcam does not use take the credentials of `social`, and see edits.

    .venv/bin/pip install encypher-c2pa
    npm install --ignore-scripts --prefix build/node @contentauth/c2pa-node@0.5.5 @trustnxt/c2pa-ts
    .venv/bin/python scripts/credentials_check.py PICTURE [--node build/node] [-o report.json]

Makes substitutes of PICTURE as JPEG, PNG and WebP, signed by the test certificate and by one whose
authority the validators are told to trust, and edits of them. Judges: `veilcam verify`;
encypher-c2pa (its own code); c2pa-node (the C2PA tool's own library, c2pa-rs, in another build and
version than c2pa-python); c2pa-ts (its own code; looks at no chain of trust, reads no WebP).
A judge is right when it says what is expected of each file. Ends with exit code 1 otherwise.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from veilcam.camera.credentials import MIME, make_certificate

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WebP"}
DATA_STARTS = {"jpg": b"\xff\xda", "png": b"IDAT", "webp": b"VP8"}  # of the pixels' own bytes
Verdict = dict[
    str, Any
]  # state: valid, invalid or none; is_trusted: true, false, or null: not seen
NODE = Path(__file__).with_suffix(".mjs")


def veilcam(*words: object) -> subprocess.CompletedProcess[str]:
    """A command of Veilcam, ended."""
    command = [sys.executable, "-m", "veilcam.camera.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def flip(data: bytes, at: int) -> bytes:
    """The same but for one bit."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def segments(data: bytes) -> tuple[bytes, bytes]:
    """The APP11 segments of a JPEG file, which hold its credentials; and the file without them."""
    at, kept, rest = 2, b"", data[:2]
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xEB:
            kept += data[at:end]
        else:
            rest += data[at:end]
        at = end
    return kept, rest + data[at:]


def make(picture: Path, folder: Path) -> list[tuple[str, Path, str, bool]]:
    """Files to judge: what it is, where, the state expected of it, whether its signer is known."""
    own = make_certificate()
    (folder / "chain.pem").write_bytes(own.chain)
    (folder / "key.pem").write_bytes(own.key)
    root = b"-----BEGIN CERTIFICATE-----" + own.chain.split(b"-----BEGIN CERTIFICATE-----")[2]
    (folder / "root.pem").write_bytes(root)
    signed = ("--certificate", folder / "chain.pem", "--key", folder / "key.pem")
    files: list[tuple[str, Path, str, bool]] = []

    def keep(name: str, suffix: str, data: bytes, state: str) -> None:
        path = folder / f"{name.replace(' ', '_')}.{suffix}"
        path.write_bytes(data)
        files.append((f"{name} ({KINDS[suffix]})", path, state, False))

    for suffix in KINDS:
        for name, options in (("as made", ()), ("own certificate", signed)):
            path = folder / f"{name.replace(' ', '_')}.{suffix}"
            done = veilcam("social", picture, "-o", path, "--size", "medium", *options)
            if done.returncode:
                raise click.ClickException(done.stderr.strip())
            files.append((f"{name} ({KINDS[suffix]})", path, "valid", bool(options)))
        data = (folder / f"as_made.{suffix}").read_bytes()
        start = data.find(DATA_STARTS[suffix])
        end = data.rfind(b"jumb") if suffix == "webp" else len(data)  # there they come last
        middle = start + (max(end - start, 0) or len(data) - start) // 2
        keep("one bit of the pixels", suffix, flip(data, middle), "invalid")
        keep("one bit of what is said", suffix, flip(data, data.find(b"org.veilcam")), "invalid")
        said = data.find(b"bundle_sha256") + 20
        keep("another bundle named", suffix, flip(data, said), "invalid")
    first = (folder / "as_made.jpg").read_bytes()
    credentials, _ = segments((folder / "own_certificate.jpg").read_bytes())
    bare = segments(first)[1]
    keep("credentials of another picture", "jpg", bare[:2] + credentials + bare[2:], "invalid")
    keep("credentials cut out", "jpg", bare, "none")
    return files


def by_verify(path: Path, _root: Path) -> Verdict:
    """What `veilcam verify` says; it knows no authority."""
    done = veilcam("verify", path, "--json")
    if not done.stdout.strip():
        raise click.ClickException(f"veilcam verify: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    if found["credentials"] is None:
        return {"state": "none", "is_trusted": None, "problems": ["no credentials"]}
    state = "valid" if done.returncode == 0 and found["is_valid"] else "invalid"
    return {"state": state, "is_trusted": None, "problems": found["credentials"]["problems"]}


def by_encypher(path: Path, root: Path) -> Verdict:
    """What encypher-c2pa says, told to trust one authority and no other; it calls nobody."""
    library = importlib.import_module("encypher_c2pa")
    found = library.verify(
        path, trust_pem=root.read_text(), no_default_trust=True, telemetry=False, online=False
    )
    problems = [entry["code"] for entry in found["validation_results"]["failure"]]
    state = {"valid": "valid"}.get(found["integrity"], "invalid") if found["present"] else "none"
    return {"state": state, "is_trusted": "signingCredential.untrusted" not in problems,
            "problems": problems}  # fmt: skip


def by_node(node: Path, files: list[Path], root: Path) -> dict[str, dict[str, Verdict]]:
    """What the two judges that run in Node say, by judge and file."""
    script = node / NODE.name  # it must lie where its packages do
    script.write_bytes(NODE.read_bytes())
    done = subprocess.run(
        ["node", script, root, *files], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"node failed: {done.stderr.strip()[-500:]}")
    found: dict[str, dict[str, Verdict]] = json.loads(done.stdout)
    return found


@click.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--node", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Report, JSON.")
def main(picture: Path, node: Path | None, out: Path | None) -> None:
    """Judge the credentials of substitutes of PICTURE."""
    judges: dict[str, Callable[[Path, Path], Verdict]] = {
        "veilcam verify": by_verify, "encypher-c2pa": by_encypher,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, root = make(picture, folder), folder / "root.pem"
        paths = [path for _, path, _, _ in files]
        found = {judge: {str(p): ask(p, root) for p in paths} for judge, ask in judges.items()}
        found |= by_node(node, paths, root) if node else {}
        rows = [
            {"file": what, "expected": state, "judge": judge, **verdicts[str(path)],
             "is_right": is_right(verdicts[str(path)], state, is_known)}
            for what, path, state, is_known in files
            for judge, verdicts in found.items()
            if str(path) in verdicts
        ]  # fmt: skip
    for row in rows:
        mark = "right" if row["is_right"] else "WRONG"
        said = f"{row['state']}, signer known: {row['is_trusted']}"
        click.echo(f"{mark}  {row['file']:42} {row['judge']:15} {said} {row['problems']}")
    if out:
        out.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = sum(not row["is_right"] for row in rows)
    click.echo(f"{len(rows)} verdicts, {wrong} wrong; kinds: {', '.join(MIME)}")
    sys.exit(1 if wrong else 0)


def is_right(verdict: Verdict, state: str, is_known: bool) -> bool:
    """Whether a verdict is as expected; of the signer only where the judge looks at him."""
    if verdict["state"] != state:
        return False
    return state != "valid" or verdict["is_trusted"] in (None, is_known)


if __name__ == "__main__":
    main()
