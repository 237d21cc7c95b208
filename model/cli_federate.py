"""`veilcam federate`: cameras that learn together; no picture leaves any of them."""

from pathlib import Path

import click

from veilcam.camera.cli_options import JSON, as_lines, emit, needs_extra
from veilcam.model.cli_rollout import device, rollout

_PATH = click.Path(path_type=Path)


@click.group(
    epilog="\b\nExamples:\n  veilcam federate plan fleet/\n"
    "  veilcam federate server fleet/ --port 9092\n"
    "  veilcam federate node kit/ --name porch --key porch.key --people porch.npz"
)
def federate() -> None:
    """Let cameras learn together without a picture leaving any of them."""


@federate.command(
    epilog="\b\nExamples:\n  veilcam federate features public/ -o fleet/public.npz --public\n"
    "  veilcam federate features photos/ -o porch.npz --basis kit/public.npz"
)
@click.argument("folders", nargs=-1, required=True, type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Features, .npz.")
@click.option("--public/--no-public", default=False, help="Fit the basis: public faces only.")
@click.option("--basis", type=_PATH, help="The federation's public.npz.")
@click.option("--size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--models", type=_PATH, help="Folder with mobileface.onnx; default: built in.")
@JSON
def features(
    folders: tuple[Path, ...], out: Path, public: bool, basis: Path | None, size: int,
    models: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Describe the faces in FOLDERS (each with a manifest.csv); pictures are not kept."""
    setup = needs_extra("veilcam.model.federate_setup", "federate")
    emit(setup.make_features(folders, out, public, basis, size, models), as_json, as_lines)


@federate.command(
    epilog="\b\nExamples:\n"
    "  veilcam federate encode photos/ --kit kit/ --features features.npz --models models/ "
    "-o porch.npz\n"
    "  veilcam federate encode a/ b/ --kit kit/ --features f.npz --models models/ -o ab.npz --json"
)
@click.argument("folders", nargs=-1, required=True, type=_PATH)
@click.option("--kit", type=_PATH, required=True, help="With encoder or critic as public.npz.")
@click.option("--features", type=_PATH, required=True, help="The feature net.")
@click.option("--models", type=_PATH, required=True, help="Folder with the matte's ONNX file.")
@click.option("-o", "--out", type=_PATH, required=True, help="Latents, .npz.")
@JSON
def encode(
    folders: tuple[Path, ...], kit: Path, features: Path, models: Path, out: Path, as_json: bool
) -> None:
    """Encode the people in FOLDERS for a federation of the face bundle; pictures are not kept."""
    setup = needs_extra("veilcam.model.federate_setup", "federate")
    emit(setup.encode(folders, kit, out, features, models), as_json, as_lines)


@federate.command(
    epilog="\b\nExamples:\n  veilcam federate move fleet/ runs/face -o runs/fleet\n"
    "  veilcam federate move fleet/ runs/face -o runs/fleet --features features.npz --json"
)
@click.argument("folder", type=_PATH)
@click.argument("run", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The moved run; export that.")
@click.option("--features", type=_PATH, help="The feature net, where a critic is followed.")
@JSON
def move(folder: Path, run: Path, out: Path, features: Path | None, as_json: bool) -> None:
    """Move the public RUN's latents by what the federation of FOLDER found."""
    setup = needs_extra("veilcam.model.federate_setup", "federate")
    emit(setup.move(folder, run, out, features), as_json, as_lines)


@federate.command(
    epilog="\b\nExamples:\n  veilcam federate critic faces.npz --features features.npz "
    "-o fleet/public.npz\n"
    "  veilcam federate critic faces.npz --features features.npz -o fleet/public.npz --size 32"
)
@click.argument("pack", type=_PATH)
@click.option("--features", type=_PATH, required=True, help="The feature net.")
@click.option("--size", type=click.IntRange(1), default=16, show_default=True, help="Axes.")
@click.option("-o", "--out", type=_PATH, required=True, help="The kit's public.npz.")
@JSON
def critic(pack: Path, features: Path, size: int, out: Path, as_json: bool) -> None:
    """Describe the public PACK's portraits for a federated discriminator of the face bundle."""
    module = needs_extra("veilcam.model.federate_critic", "federate")
    emit(module.write_critic(pack, features, out, size), as_json, as_lines)


@federate.command(
    epilog="\b\nExamples:\n  veilcam federate plan fleet/\n"
    "  veilcam federate plan fleet/ --max-epsilon 6 --json"
)
@click.argument("folder", type=_PATH)
@click.option("--max-epsilon", type=float, help="A node owner's cap.")
@JSON
def plan(folder: Path, max_epsilon: float | None, as_json: bool) -> None:
    """Say what the federation of FOLDER would cost a camera; nothing is spent."""
    setup = needs_extra("veilcam.model.federate_setup", "federate")
    value = setup.show_plan(folder, max_epsilon)
    emit(value, as_json, setup.plan_text)


@federate.command(
    epilog="\b\nExamples:\n  veilcam federate key porch.key\n"
    "  veilcam federate key porch.key --json"
)
@click.argument("path", type=_PATH)
@JSON
def key(path: Path, as_json: bool) -> None:
    """Make a node's key at PATH and show the line that goes into roster.json."""
    keys = needs_extra("veilcam.model.federate_keys", "federate")
    emit({"key": str(path), "public": keys.make_identity(path)}, as_json, as_lines)


@federate.command(
    epilog="\b\nExamples:\n  veilcam federate server fleet/\n"
    "  veilcam federate server fleet/ --host 0.0.0.0 --certify fleet.example --port 9092"
)
@click.argument("folder", type=_PATH)
@click.option("--port", type=click.IntRange(1, 65535), default=9092, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--certify", multiple=True, help="Host name or address in the certificate.")
@click.option("--timeout", type=click.FloatRange(1), default=60.0, help="Seconds for a stage.")
@JSON
def server(
    folder: Path, port: int, host: str, certify: tuple[str, ...], timeout: float, as_json: bool
) -> None:
    """Conduct the federation of FOLDER: federation.toml, roster.json, public.npz.

    Started again after a crash it goes on where it was. Nodes need the folder's first three files
    and link/ca.crt.
    """
    setup = needs_extra("veilcam.model.federate_setup", "federate")
    value = setup.serve(folder, port=port, host=host, names=certify, timeout_s=timeout)
    emit(value, as_json, as_lines)


@federate.command(
    epilog="\b\nExamples:\n"
    "  veilcam federate node kit/ --name porch --key porch.key --people porch.npz\n"
    "  veilcam federate node kit/ --name porch --key porch.key --spent --json"
)
@click.argument("folder", type=_PATH)
@click.option("--name", required=True, help="As in roster.json.")
@click.option("--key", type=_PATH, required=True, help="From `veilcam federate key`.")
@click.option("--people", type=_PATH, help="Features of this camera's people.")
@click.option("--server", default="127.0.0.1:9092", show_default=True, help="HOST:PORT")
@click.option("--root", type=_PATH, help="The server's certificate; default: FOLDER/ca.crt.")
@click.option("--state", type=_PATH, help="For the ledger; default: FOLDER/NAME.")
@click.option("--max-epsilon", type=float, help="Stop before this camera has spent more.")
@click.option("--duty/--no-duty", default=True, help="Only when idle, cool and powered.")
@click.option("--pulse", type=_PATH, help="Of loops here; default: this user's.")
@click.option("--spent/--no-spent", default=False, help="Show what was spent; do nothing.")
@JSON
def node(
    folder: Path, name: str, key: Path, people: Path | None, server: str, root: Path | None,
    state: Path | None, max_epsilon: float | None, duty: bool, pulse: Path | None, spent: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Take part in a federation as the camera NAME; FOLDER is the kit its server gave out."""
    setup = needs_extra("veilcam.model.federate_setup", "federate")
    state = state or folder / name
    if spent:
        emit(setup.spent(state), as_json, as_lines)
        return
    value = setup.join(
        folder, name=name, key=key, people=people, server=server, root=root or folder / "ca.crt",
        state=state, max_epsilon=max_epsilon, has_duty=duty, pulse=pulse,
    )  # fmt: skip
    emit(value, as_json, as_lines)


@federate.command(
    epilog="\b\nExamples:\n"
    "  veilcam federate simulate --people people.npz --public public.npz --cameras 100\n"
    "  veilcam federate simulate --people people.npz --public public.npz --cameras 10 "
    "--cameras 1000 --engine ray --json"
)
@click.option("--people", type=_PATH, required=True, help="Features; dealt out by person.")
@click.option("--public", type=_PATH, required=True, help="public.npz")
@click.option("--cameras", type=click.IntRange(2), multiple=True, default=(100,))
@click.option("--per-round", type=click.IntRange(2), default=100, help="Cameras on average.")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--epsilon", type=float, default=8.0, show_default=True)
@click.option("--delta", type=float, default=1e-5, show_default=True)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local")
@click.option("--seeds", type=click.IntRange(1), default=1, help="Repetitions.")
@JSON
def simulate(
    people: Path, public: Path, cameras: tuple[int, ...], per_round: int, rounds: int,
    epsilon: float, delta: float, engine: str, seeds: int, as_json: bool,
) -> None:  # fmt: skip
    """Train with virtual cameras on this machine and show what N of them reach."""
    setup = needs_extra("veilcam.model.federate_simulate", "federate")
    value = setup.simulate(
        people, public, cameras, per_round=per_round, rounds=rounds, epsilon=epsilon,
        delta=delta, engine=engine, repeats=seeds,
    )  # fmt: skip
    emit(value, as_json, setup.as_table)


federate.add_command(rollout)
federate.add_command(device)
