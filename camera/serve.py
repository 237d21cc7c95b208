"""`veilcam serve`: the local page. Opens port and password; all work is done by the processes."""

import importlib
import importlib.util
import logging
import socket
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from veilcam.camera import serve_password
from veilcam.camera.errors import ConfigError
from veilcam.camera.strength import DEFAULT

_log = logging.getLogger(__name__)
_MAX_REPORT_BYTES = 32 * 2**20
_LOOPBACKS = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the command line asks for.

    Attributes:
        host, port: Where the page is; port 0 takes a free one.
        allow_hosts: Further names by which it may be called.
        report: An audit's HTML to show.
        rtsp_port: Serve H.264 by RTSP there, too; None does not.
        tls: `self-signed`, or empty: by the user's certificate, or not at all.
        tls_cert, tls_key: The user's certificate chain and key, PEM; the key may be in the chain's
            file.
        bundle, mode, strength, audit, prompt, delay_frames, asked: As `veilcam run`.
        waits: Show the page without a camera, and go on looking for it.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    allow_hosts: tuple[str, ...] = ()
    report: Path | None = None
    bundle: Path | None = None
    mode: str = "face"
    strength: str = DEFAULT.value
    audit: bool = False
    prompt: str = ""
    delay_frames: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    require_barriers: bool = False
    waits: bool = False
    rtsp_port: int | None = None
    tls: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None


def serve(
    source: str, options: ServeOptions, say: Callable[[str], None], stop: Event
) -> dict[str, Any]:
    """Runs the page until `stop`; the run's report comes back.

    Args:
        source: As `veilcam run`; a clip plays again and again.
        options: How.
        say: Gets what the user must read once: address and, at the first start, the password.
        stop: Ends it.

    Raises:
        VeilcamError: Bad input, or what the page needs is not there.
    """
    check_installed()
    from veilcam.camera.handed import handed_over
    from veilcam.camera.process import python_command
    from veilcam.camera.serve_supervise import ServeSupervisor, StillKeeper
    from veilcam.camera.serve_words import with_prompt
    from veilcam.camera.session import has_two_processes, load_profile, source_limit_s
    from veilcam.camera.settings import PROFILE_KEYS, Settings
    from veilcam.camera.sink_web import listen
    from veilcam.camera.strength import choose
    from veilcam.camera.tls import fingerprint, handed_pem
    from veilcam.camera.watch_choice import choose_watch

    if not has_two_processes():
        raise ConfigError(f"the page needs two processes, which {sys.platform} cannot have here")
    value = _page_value(options)
    pem = _tls_pem(options, value["names"])
    choose(options.strength)
    choose_watch(options.audit)
    with (
        listen(options.host, options.port) as listener,
        _pair() as (ours, theirs),
        handed_pem(pem) if pem else nullcontext() as tls,
        ExitStack() as stack,
    ):
        certificate = () if tls is None else (tls,)
        rtsp = () if options.rtsp_port is None else _open_rtsp(stack, options, certificate)
        port = listener.getsockname()[1]
        password_hash = _password(say)
        value |= {"port": port, "password_hash": password_hash, "has_rtsp": bool(rtsp)}
        profile = load_profile() or {}
        settings = Settings(
            source=source,
            sink="web",
            mode=options.mode,
            bundle=str(options.bundle.absolute()) if options.bundle is not None else "",
            delay_frames=options.delay_frames,
            profile={key: entry for key, entry in profile.items() if key in PROFILE_KEYS},
            source_limit_s=source_limit_s(source),
            asked=options.asked,
        )
        if options.prompt:
            settings = with_prompt(settings, options.prompt)
        with handed_over(value) as handed:
            supervisor = ServeSupervisor(
                settings,
                StillKeeper(settings, theirs),
                require_barriers=options.require_barriers,
                waits=options.waits,
                capture_command=python_command("veilcam.camera.serve_capture"),
                publish_command=python_command("veilcam.camera.serve_publish"),
                handed={"publish": (listener.fileno(), handed, ours, *rtsp, *certificate)},
            )
            way = "http" if tls is None else "https"
            say(f"Veilcam is at {_address(way, options.host, port)}  (Ctrl-C ends it)")
            if options.tls:
                say(f"Certificate of this machine's own; SHA-256 {fingerprint(pem)}")
            if options.host not in _LOOPBACKS and tls is None:
                say(
                    "This address is open to the network, without encryption: whoever listens there"
                    " can read password and pictures. Give --tls self-signed, see docs/page.md."
                )
            return supervisor.run(stop.is_set)


def _open_rtsp(
    stack: ExitStack, options: ServeOptions, certificate: tuple[int, ...]
) -> tuple[int, ...]:
    """Bound socket and JSON of the RTSP stream, which has the variable's password."""
    from veilcam.camera.sink_served import open_rtsp, stream_password

    assert options.rtsp_port is not None
    password = stream_password(options.host)
    return open_rtsp(stack, options.host, options.rtsp_port, password, has_tls=bool(certificate))


def _tls_pem(options: ServeOptions, names: list[str]) -> bytes:
    """Chain and key to serve with; empty without TLS."""
    from veilcam.camera import tls

    if options.tls and (options.tls_cert or options.tls_key):
        raise ConfigError("got --tls and --tls-cert or --tls-key, wanted one of the two ways")
    if options.tls_key is not None and options.tls_cert is None:
        raise ConfigError("got --tls-key alone, wanted --tls-cert too")
    if options.tls:
        own = [name for name in names if name not in ("0.0.0.0", "::")]
        return tls.self_signed([*own, "127.0.0.1", "::1"], serve_password.password_path().parent)
    return tls.read_pem(options.tls_cert, options.tls_key) if options.tls_cert else b""


def check_installed() -> None:
    """Raises ConfigError where the server's libraries are missing."""
    for name in ("starlette", "uvicorn", "argon2", "PIL"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"the page needs {error.name}: run ./scripts/setup serve") from error


def _password(say: Callable[[str], None]) -> str:
    """The stored hash; at the first start one for a password that is told here and never again."""
    stored = serve_password.load()
    if stored is not None:
        return stored
    password = serve_password.generate()
    path = serve_password.save(password)
    say(
        f"Password: {password}\n  It is shown this once; only its hash is kept, in {path}.\n"
        "  `veilcam serve --set-password` sets another."
    )
    stored = serve_password.load()
    assert stored is not None
    return stored


def _page_value(options: ServeOptions) -> dict[str, Any]:
    """What the page is told once; reading it here also checks bundle, mode and report."""
    from veilcam.camera.pictures import MODES
    from veilcam.camera.serve_claims import claims_of, load_bundles
    from veilcam.camera.serve_guard import own_names
    from veilcam.camera.serve_words import known_words, unknown_words

    bundles = load_bundles(options.bundle, options.mode)
    face = bundles.get("face")
    words = known_words(face.path) if face is not None else []
    if unknown := unknown_words(options.prompt, tuple(words)):
        _log.warning("words that are not known and were left out: %s", ", ".join(unknown))
    return {
        "claims": claims_of(bundles),
        "names": sorted(own_names(options.host, options.allow_hosts)),
        "modes": list(bundles),
        "words": words,
        "purposes": _purposes(bundles),
        "picture_modes": [mode for mode in MODES if mode in bundles],
        "report": _report(options.report),
    }


def _purposes(modes: Container[str]) -> list[str]:
    """What can be made of a dropped picture with bundles of these modes."""
    has_search = importlib.util.find_spec("veilcam.camera.search") is not None
    if "face" in modes:
        return ["album", "social", *(["search"] if has_search else [])]
    return ["album", "social"] if "frame" in modes else []


def _report(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        if path.stat().st_size > _MAX_REPORT_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_REPORT_BYTES >> 20} MiB")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}); wanted the report.html of `audit`"
        ) from error
    if "<html" not in text[:2000].lower():
        raise ConfigError(f"{path} is no HTML; wanted the report.html of `veilcam audit`")
    return text


@contextmanager
def _pair() -> Iterator[tuple[int, int]]:
    """Both ends of the pictures' channel; they live as long as the run."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        yield ends[0].fileno(), ends[1].fileno()
    finally:
        for end in ends:
            end.close()


def _address(way: str, host: str, port: int) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"{way}://[{shown}]:{port}/" if ":" in shown else f"{way}://{shown}:{port}/"
