"""GStreamer's RTSP server in a process of its own. Runs under the system's Python, not ours.

Reads one line of JSON from stdin, then access units (`sink_rtsp.HEAD`); says one line of JSON on
stdout once it serves. It sees encoded safe pictures and nothing else; where the kernel lets it, it
gives up files, programs and every other port before the first client comes.
"""

import importlib
import json
import os
import struct
import sys
import threading
import types
from pathlib import Path
from typing import Any

HEAD = struct.Struct("<IQ?")
MAX_UNIT = 8 << 20
CHAIN = (
    "( appsrc name=units is-live=true format=time do-timestamp=false block=false "
    "max-bytes=2000000 leaky-type=downstream "
    "caps=video/x-h264,stream-format=byte-stream,alignment=au "
    "! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )"
)


def say(**value: Any) -> None:
    """One line for who started us."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def read_exactly(size: int) -> bytes | None:
    """So many bytes of stdin; None at its end."""
    data = bytearray()
    while len(data) < size:
        piece = os.read(0, min(size - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return bytes(data)


def read_line() -> dict[str, Any]:
    """The first line of stdin and nothing of what follows."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < 4096:
        piece = os.read(0, 1)
        if not piece:
            break
        line += piece
    value: dict[str, Any] = json.loads(line)
    return value


def raise_barriers(port: int) -> list[str]:
    """Names of the barriers that are not up. Our own module, by its place: no package is here."""
    for name in ("veilcam", "veilcam.camera"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(__file__).parent)] if name.endswith("camera") else []
        sys.modules[name] = module
    import socket

    from veilcam.camera.barriers import Plan, missing
    from veilcam.camera.barriers import raise_barriers as raise_them
    from veilcam.camera.landlock import READ, Rule
    from veilcam.camera.seccomp import Policy

    policy = Policy(
        may_connect=(socket.AF_INET, socket.AF_INET6, socket.AF_UNIX),
        may_write=False,
        may_open_devices=False,
        may_stream_camera=False,
    )
    paths = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/proc/self", "/usr/share/zoneinfo")
    rules = tuple(Rule(Path(path), READ) for path in (*paths, "/dev/urandom", "/dev/null"))
    plan = Plan(rules=rules, policy=policy, needs_network=True, bind_ports=(port,))
    return missing(raise_them(plan), "publish")


class Feeder:
    """Gives each access unit to whatever pipelines there are.

    Args:
        gst: The Gst module.
        loop: Ends with stdin.
    """

    def __init__(self, gst: Any, loop: Any) -> None:
        self.gst, self.loop = gst, loop
        self.lock, self.sources = threading.Lock(), list[dict[str, Any]]()

    def configure(self, _factory: Any, media: Any) -> None:
        """A first client came: a pipeline was made, which all later ones share."""
        source = media.get_element().get_child_by_name("units")
        state = {"source": source, "start": None}
        with self.lock:
            self.sources.append(state)
        media.connect("unprepared", lambda _media: self.forget(state))

    def forget(self, state: dict[str, Any]) -> None:
        """The last client left."""
        with self.lock:
            if state in self.sources:
                self.sources.remove(state)

    def work(self) -> None:
        """Reads until stdin ends."""
        while True:
            head = read_exactly(HEAD.size)
            if head is None:
                break
            size, time_ns, is_key = HEAD.unpack(head)
            data = read_exactly(size) if 0 < size <= MAX_UNIT else None
            if data is None:
                break
            with self.lock:
                for state in self.sources:
                    self.push(state, data, time_ns, is_key)
        self.loop.quit()

    def push(self, state: dict[str, Any], data: bytes, time_ns: int, is_key: bool) -> None:
        """One unit into one pipeline, from a key frame on, timed from its first."""
        if state["start"] is None:
            if not is_key:
                return
            state["start"] = time_ns
        buffer = self.gst.Buffer.new_wrapped(data)
        buffer.pts = buffer.dts = time_ns - state["start"]
        state["source"].emit("push-buffer", buffer)


def main() -> int:
    """Serves until stdin ends."""
    options = read_line()
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Gst", "1.0")
        gi.require_version("GstRtspServer", "1.0")
        names = ("GLib", "Gst", "GstRtsp", "GstRtspServer")
        found = [importlib.import_module(f"gi.repository.{name}") for name in names]
        glib, gst, rtsp, rtsp_server = found
    except (ImportError, ValueError):
        say(problem="not installed")
        return 2
    gst.init(None)
    if any(gst.ElementFactory.find(n) is None for n in ("appsrc", "h264parse", "rtph264pay")):
        say(problem="not installed")
        return 2
    loop = glib.MainLoop()
    feeder = Feeder(gst, loop)
    server = rtsp_server.RTSPServer()
    server.set_address(options["host"])
    server.set_service(str(options["port"]))
    factory = rtsp_server.RTSPMediaFactory()
    factory.set_launch(CHAIN)
    factory.set_shared(True)
    factory.set_latency(100)
    # TCP alone: one port to open, and no stream to an address that did not ask for it
    factory.set_protocols(rtsp.RTSPLowerTrans.TCP)
    factory.connect("media-configure", feeder.configure)
    if options["password"]:
        protect(rtsp_server, rtsp, server, factory, options["password"])
    server.get_mount_points().add_factory(options["path"], factory)
    if not server.attach(None):
        say(problem="Address already in use")
        return 2
    port = server.get_bound_port()
    down = raise_barriers(port)
    threading.Thread(target=feeder.work, daemon=True).start()
    say(port=port, missing=", ".join(down))
    loop.run()
    return 0


def protect(rtsp_server: Any, rtsp: Any, server: Any, factory: Any, password: str) -> None:
    """Digest login as user `veilcam`: the password itself does not cross the network."""
    auth = rtsp_server.RTSPAuth()
    auth.set_supported_methods(rtsp.RTSPAuthMethod.DIGEST)
    token = rtsp_server.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_digest("veilcam", password, token)
    server.set_auth(auth)
    permissions = rtsp_server.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)


if __name__ == "__main__":
    sys.exit(main())
