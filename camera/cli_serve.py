"""Command `serve`: the local page."""

import logging
from pathlib import Path
from threading import Event
from typing import Any

import click

from veilcam.camera.cli_options import AUDIT, BUNDLE, JSON, STRENGTH, as_lines, asks_webcam, emit

_log = logging.getLogger(__name__)


@click.command(
    epilog="\b\nExamples:\n  veilcam serve demo\n  veilcam serve 0 --strength strict --port 9000\n"
    "  veilcam serve 0 --host 0.0.0.0 --tls self-signed\n  veilcam serve --set-password\n"
    "  veilcam serve 0 --rtsp-port 8554      # and rtsp://127.0.0.1:8554/veilcam"
)
@click.argument("source", default="0")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: the whole network.")
@click.option("--mode", type=click.Choice(["face", "scene", "frame"]), default="face")
@BUNDLE
@STRENGTH
@click.option("--prompt", default="", help="Who the stand-ins are, in words.")
@click.option("--delay", type=click.IntRange(0, 3), default=0, help="Frames of look-ahead.")
@asks_webcam
@click.option(
    "--wait-for-camera", is_flag=True, help="Show the page without it, and go on looking."
)
@click.option("--rtsp-port", type=click.IntRange(0, 65535), help="H.264 by RTSP there, too.")
@AUDIT
@click.option("--report", type=click.Path(path_type=Path), help="Audit's report.html to show.")
@click.option("--allow-host", multiple=True, help="A further name of this server; repeatable.")
@click.option("--tls", type=click.Choice(["self-signed"]), help="By a certificate of our own.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM chain to serve with.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its PEM key.")
@click.option(
    "--require-barriers/--no-require-barriers", default=False, help="Refuse where one is not up."
)
@click.option("--set-password", is_flag=True, help="Ask for a new password, keep its hash, end.")
@JSON
def serve(source: str, set_password: bool, as_json: bool, **options: Any) -> None:
    """Show SOURCE on a page of your own: live picture, settings, claims, pictures to replace."""
    if set_password:
        _set_password()
        return
    from veilcam.camera.serve import ServeOptions
    from veilcam.camera.serve import serve as run_it
    from veilcam.camera.session import interrupt_stops

    options["allow_hosts"] = options.pop("allow_host")
    options["delay_frames"] = options.pop("delay")
    options["waits"] = options.pop("wait_for_camera")
    options["tls"] = options["tls"] or ""
    stop = Event()
    with interrupt_stops(stop.is_set, stop.set):
        report = run_it(source, ServeOptions(**options), _say, stop)
    emit(report, as_json, as_lines)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _set_password() -> None:
    from veilcam.camera import serve_password
    from veilcam.camera.serve import check_installed

    check_installed()
    password = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    path = serve_password.save(password)
    click.echo(
        f"kept as a hash in {path}; it holds from the next start of `veilcam serve`", err=True
    )
