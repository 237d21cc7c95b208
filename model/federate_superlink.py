"""Flower's SuperLink, of which only the nodes' part can be reached from other machines.

All its interfaces share a port. Its control part has no login of its own and starts code on the
server, so anything but `/v1/fleet/` is answered with 403 unless it comes from this machine.

Usage: python -m veilcam.model.federate_superlink OPTIONS-OF-FLOWER-SUPERLINK
"""

import ipaddress
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


def only_fleet_from_afar(app: App) -> App:
    """The application, closed to other machines but for its part for nodes."""

    async def guarded(scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan" or _may_pass(scope):
            await app(scope, receive, send)
            return
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"only for nodes"})

    return guarded


def _may_pass(scope: Scope) -> bool:
    parts = scope["path"].split("/") if scope["type"] == "http" else []
    if parts[:3] == ["", "v1", "fleet"] and ".." not in parts:
        return True
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def main() -> None:
    """Runs it with the guard in front."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    import uvicorn
    from flwr.superlink.cli.flower_superlink import flower_superlink

    start = uvicorn.run

    def run(app: App, **options: Any) -> None:
        start(only_fleet_from_afar(app), proxy_headers=False, **options)

    vars(uvicorn)["run"] = run  # Flower starts the server by this name
    flower_superlink()


if __name__ == "__main__":
    main()
