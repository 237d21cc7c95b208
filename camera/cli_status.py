"""Command `status`: is that camera well?"""

import os
from typing import Any

import click

from veilcam.camera.cli_options import JSON, as_lines, emit

PASSWORD_VARIABLE = "VEILCAM_PASSWORD"


@click.command(
    epilog="\b\nExamples:\n  veilcam status\n  veilcam status http://door.local --json\n"
    "  VEILCAM_PASSWORD=... veilcam status https://door.local --ca tls.pem"
)
@click.argument("address", default="http://127.0.0.1:8080")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Certificate to trust.")
@JSON
def status(address: str, ca: str | None, as_json: bool) -> None:
    """Ask the page at ADDRESS how its camera does; exit code 1 where something is wrong.

    Its password is read from VEILCAM_PASSWORD, or asked for.
    """
    from veilcam.camera.status import ask, health

    password = os.environ.get(PASSWORD_VARIABLE) or click.prompt(
        "Password", hide_input=True, err=True
    )
    value = ask(address, password, ca=ca)
    problems = health(value)
    found: dict[str, Any] = {"ok": not problems, "problems": problems} | value
    emit(found, as_json, lambda _: _to_text(found))
    if problems:
        raise click.exceptions.Exit(1)


def _to_text(found: dict[str, Any]) -> str:
    first = "well" if found["ok"] else "\n".join(f"problem: {text}" for text in found["problems"])
    names = ("mode", "strength", "frames_in", "frames_out", "frames_blank", "frames_dropped",
             "faults_by_stage", "restarts", "outages", "latency_ms")  # fmt: skip
    return f"{first}\n{as_lines({name: found[name] for name in names if name in found})}"
