"""`veilcam federate rollout` and `device`: a bundle goes out in stages, or back."""

from pathlib import Path

import click

from veilcam.camera.cli_options import JSON, as_lines, emit, needs_extra

_PATH = click.Path(path_type=Path)


@click.group(
    epilog="\b\nExamples:\n  veilcam federate rollout key update.key\n"
    "  veilcam federate rollout begin fleet/ new.veil --former old.veil --key update.key "
    "--audit new.json\n"
    "  veilcam federate rollout serve fleet/ --port 9093"
)
def rollout() -> None:
    """Bring a signed bundle to a fleet in stages; roll back when the audit is worse."""


@rollout.command(
    epilog="\b\nExamples:\n  veilcam federate rollout key update.key\n"
    "  veilcam federate rollout key update.key --json"
)
@click.argument("path", type=_PATH)
@JSON
def key(path: Path, as_json: bool) -> None:
    """Make the signing key at PATH, to be kept off the server; devices pin the public half."""
    offer = needs_extra("veilcam.model.rollout_offer", "federate")
    emit({"key": str(path), "public": offer.make_key(path)}, as_json, as_lines)


@rollout.command(
    epilog="\b\nExamples:\n"
    "  veilcam federate rollout begin fleet/ new.veil --former old.veil --key update.key "
    "--audit new.json\n"
    "  veilcam federate rollout begin fleet/ new.veil --former old.veil --key update.key "
    "--audit new.json --stage 20 --stage 100 --min-reports 30"
)
@click.argument("folder", type=_PATH)
@click.argument("bundle", type=_PATH)
@click.option("--former", type=_PATH, required=True, help="The bundle that devices run now.")
@click.option("--key", type=_PATH, required=True, help="From `rollout key`.")
@click.option("--audit", type=_PATH, help="What `veilcam audit BUNDLE --json` said: a pass.")
@click.option("--unaudited/--no-unaudited", default=False, help="Send it out without.")
@click.option("--stage", "stages", type=float, multiple=True, default=(5.0, 25.0, 100.0))
@click.option("--local-epsilon", default=2.0, show_default=True, help="Of a device's answer.")
@click.option("--min-samples", type=click.IntRange(1), default=200, show_default=True)
@click.option("--min-reports", type=click.IntRange(1), default=20, show_default=True)
@click.option("--patience", type=click.FloatRange(0.1), default=86_400.0, help="Seconds.")
@click.option("--silence", type=click.FloatRange(0.1), default=172_800.0, help="Seconds.")
@click.option("--alpha", default=0.05, show_default=True, help="Of rolling back for nothing.")
@JSON
def begin(
    folder: Path, bundle: Path, former: Path, key: Path, audit: Path | None, unaudited: bool,
    stages: tuple[float, ...], local_epsilon: float, min_samples: int, min_reports: int,
    patience: float, silence: float, alpha: float, as_json: bool,
) -> None:  # fmt: skip
    """Sign BUNDLE and start its first stage in FOLDER, which holds roster.json."""
    state = needs_extra("veilcam.model.rollout_state", "federate")
    from veilcam.camera.errors import ConfigError
    from veilcam.camera.manifest import load_bundle
    from veilcam.model.federate_keys import Roster

    if (audit is None) != unaudited:
        raise ConfigError("give --audit FILE, from `veilcam audit BUNDLE --json`, or --unaudited")
    rules = state.Rules(stages=stages, alpha=alpha, min_reports=min_reports, silence_s=silence)
    made = state.begin(
        folder / "rollout", bundle, load_bundle(former).sha256, key,
        Roster.read(folder / "roster.json"), rules, local_epsilon=local_epsilon,
        min_samples=min_samples, patience_s=patience, audit=audit,
    )  # fmt: skip
    emit(made.status(), as_json, as_lines)


@rollout.command(
    epilog="\b\nExamples:\n  veilcam federate rollout serve fleet/\n"
    "  veilcam federate rollout serve fleet/ --host 0.0.0.0 --certify fleet.example --port 9093"
)
@click.argument("folder", type=_PATH)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=9093, show_default=True)
@click.option("--certify", multiple=True, help="Host name or address in the certificate.")
def serve(folder: Path, host: str, port: int, certify: tuple[str, ...]) -> None:
    """Answer devices until interrupted; started again it goes on where it was."""
    web = needs_extra("veilcam.model.rollout_web", "federate")
    from veilcam.model.federate_keys import Roster
    from veilcam.model.rollout_state import Rollout

    made = Rollout(folder / "rollout", Roster.read(folder / "roster.json"))
    names = certify or ("localhost", "127.0.0.1")
    with web.RolloutServer(made, folder / "link", host=host, port=port, names=names) as server:
        click.echo(f"listening at {host}:{port}; devices need {server.root}", err=True)
        server.serve_forever()


@rollout.command(
    epilog="\b\nExamples:\n  veilcam federate rollout status fleet/\n"
    "  veilcam federate rollout status fleet/ --json"
)
@click.argument("folder", type=_PATH)
@JSON
def status(folder: Path, as_json: bool) -> None:
    """Show how far the rollout of FOLDER is, and what was decided."""
    state = needs_extra("veilcam.model.rollout_state", "federate")
    from veilcam.model.federate_keys import Roster

    made = state.Rollout(folder / "rollout", Roster.read(folder / "roster.json"))
    emit(made.status(), as_json, as_lines)


@click.command(
    epilog="\b\nExamples:\n"
    "  veilcam federate device porch/ --name porch --key porch.key --trust PUBLIC\n"
    "  veilcam federate device porch/ --name porch --key porch.key --trust PUBLIC "
    "--pulse /run/veilcam --server fleet.example:9093 --root ca.crt "
    "--restart 'systemctl restart veilcam'"
)
@click.argument("folder", type=_PATH)
@click.option("--name", required=True, help="As in the server's roster.json.")
@click.option("--key", type=_PATH, required=True, help="From `veilcam federate key`.")
@click.option("--trust", required=True, help="Public key of `rollout key`, 64 digits.")
@click.option("--pulse", type=_PATH, help="Of the loop here; default: this user's.")
@click.option("--server", default="127.0.0.1:9093", show_default=True, help="HOST:PORT")
@click.option("--root", type=_PATH, help="The server's ca.crt; default: FOLDER/ca.crt.")
@click.option("--bundle", type=_PATH, help="What a new device starts with; default: built in.")
@click.option("--restart", help="Command after which the loop runs FOLDER/current.veil.")
@click.option("--max-epsilon", default=10.0, show_default=True, help="Of all answers together.")
@click.option("--every", type=click.FloatRange(0.05), default=60.0, help="Seconds.")
def device(
    folder: Path, name: str, key: Path, trust: str, pulse: Path | None, server: str,
    root: Path | None, bundle: Path | None, restart: str | None, max_epsilon: float, every: float,
) -> None:  # fmt: skip
    """Keep FOLDER/current.veil at what the fleet's server offers, until interrupted."""
    module = needs_extra("veilcam.model.rollout_device", "federate")
    from veilcam.camera.errors import ConfigError
    from veilcam.camera.manifest import default_bundle_path
    from veilcam.camera.pulse import folder as pulse_folder
    from veilcam.model.federate_keys import Identity, read_key
    from veilcam.model.rollout_offer import trusted_key
    from veilcam.model.rollout_web import Link

    pulse = pulse or pulse_folder()
    if pulse is None:
        raise ConfigError("XDG_RUNTIME_DIR is not set, so no loop is found; give --pulse")
    link = Link(server, root or folder / "ca.crt", Identity(name, read_key(key)))
    made = module.Device(
        folder, link, trusted_key(trust), bundle=bundle or default_bundle_path(),
        read_audit=module.pulse_audit(pulse), restart=module.restarter(restart),
        max_epsilon=max_epsilon,
    )  # fmt: skip
    module.run(made, every_s=every)
