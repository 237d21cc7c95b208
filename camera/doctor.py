"""Looks at this machine: what Veilcam can use here, and what to do about what it cannot."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from veilcam.camera import barriers
from veilcam.camera.errors import VeilcamError

_PROBE_S = 20.0
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `warn` costs a feature or speed, `fail` means Veilcam cannot run."""

    name: str
    status: Status
    got: str
    cure: str = ""


def check_cameras(
    device_folder: Path = Path("/dev"), class_folder: Path = Path("/sys/class/video4linux")
) -> Check:
    """Cameras here, by number and name, and whether this user may open them."""
    devices = sorted(device_folder.glob("video*"))
    if not devices:
        cure = "plug in a webcam; clips, pictures and `demo` work without one"
        return Check("cameras", "warn", "none", cure)
    named = []
    for device in devices:
        name_file = class_folder / device.name / "name"
        name = name_file.read_text().strip() if name_file.is_file() else "unknown"
        named.append(f"{device} ({name})")
    if not any(os.access(device, os.R_OK | os.W_OK) for device in devices):
        cure = "permission denied: run `sudo usermod -aG video $USER` and log in again"
        return Check("cameras", "warn", ", ".join(named), cure)
    return Check("cameras", "ok", ", ".join(named))


def check_display() -> Check:
    """Whether `--sink window` can work."""
    from veilcam.camera.sink import has_display, has_window_support

    if not has_display():
        cure = "use --sink file:out.mp4 or virtual, or start from a desktop session"
        return Check("display", "warn", "no DISPLAY or WAYLAND_DISPLAY", cure)
    if not has_window_support():
        cure = "run VEILCAM_WINDOW=1 ./scripts/setup to take OpenCV's GUI wheel"
        return Check("display", "warn", "display, but OpenCV without windows", cure)
    return Check("display", "ok", "window available")


def check_providers() -> Check:
    """ONNX Runtime's execution providers."""
    try:
        import onnxruntime
    except ImportError as error:
        return Check("providers", "fail", f"onnxruntime: {error}", "run ./scripts/setup")
    names = onnxruntime.get_available_providers()
    got = f"onnxruntime {onnxruntime.__version__}: {', '.join(names)}"
    if "CPUExecutionProvider" not in names:
        return Check(
            "providers", "fail", got, "reinstall onnxruntime: rm -r .venv; ./scripts/setup"
        )
    return Check("providers", "ok", got)


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    """Cores and the int8 instructions that decide which precision is faster."""
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    flags = {word for line in text.splitlines() if line.startswith(("flags", "Features"))
             for word in line.split(":", 1)[-1].split()}  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = sorted(flags & {"avx512_vnni", "avx_vnni", "avx2", "amx_int8", "asimddp", "i8mm"})
    got = f"{cores} cores, {' '.join(found) or 'no known vector features'}"
    if {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(found):
        return Check("cpu", "ok", got)
    cure = "no fast int8 here: run `veilcam bench demo --tune`, fp32 may be the better choice"
    return Check("cpu", "warn", got, cure)


def check_virtual_camera(module_folder: Path = Path("/sys/module")) -> Check:
    """Whether `--sink virtual` can work."""
    if not (module_folder / "v4l2loopback").is_dir():
        cure = (
            "run `sudo apt install v4l2loopback-dkms && sudo modprobe v4l2loopback "
            "exclusive_caps=1 card_label=Veilcam`"
        )
        return Check("virtual camera", "warn", "driver v4l2loopback not loaded", cure)
    try:
        import pyvirtualcam  # noqa: F401
    except ImportError:
        got = "driver loaded, pyvirtualcam missing"
        return Check("virtual camera", "warn", got, "run ./scripts/setup virtual")
    return Check("virtual camera", "ok", "driver loaded")


def check_barriers() -> Check:
    """What keeps camera and network apart here, tried in two processes as `run` starts them."""
    from veilcam.camera.session import has_two_processes

    if not has_two_processes():
        cure = "run Veilcam on Linux; here one process sees raw pictures and owns the output"
        return Check("barriers", "warn", "none: one process does all", cure)
    found = probe_barriers()
    if not found:
        return Check("barriers", "fail", "the processes do not start", "run ./scripts/setup")
    states = {name for state in found.values() for name in state}
    told = []
    for name in sorted(states):
        values = {role: state.get(name, "down") for role, state in found.items()}
        one = set(values.values())
        told += [f"{name} {one.pop()}"] if len(one) == 1 else [
            f"{role} {name} {value}" for role, value in values.items()
        ]  # fmt: skip
    if barriers.all_missing(found):
        cure = "use a kernel with Landlock (5.13) and seccomp; --require-barriers refuses to run"
        return Check("barriers", "warn", "; ".join(told), cure)
    return Check("barriers", "ok", "; ".join(told))


def probe_barriers() -> dict[str, dict[str, str]]:
    """Starts both processes, lets them raise and try their barriers, and ends them again."""
    from veilcam.camera.settings import Settings
    from veilcam.camera.supervise import Supervisor

    probe = Supervisor(Settings(source="demo", sink="null"))
    deadline_s = time.monotonic() + _PROBE_S
    with suppress(VeilcamError):
        probe.run(lambda: len(probe.notes.barriers) == 2 or time.monotonic() > deadline_s)
    return probe.notes.barriers


def check_bundle(path: Path | None = None) -> Check:
    """Whether the weights are there, unchanged and of the right shape."""
    from veilcam.camera.manifest import load_bundle

    try:
        found = load_bundle(path)
    except VeilcamError as error:
        cure = "check out the file again (git checkout camera/assets) or export the bundle anew"
        return Check("bundle", "fail", str(error), cure)
    return Check("bundle", "ok", f"{found.path.name}: hashes and shapes match")


def examine(bundle: Path | None = None) -> list[Check]:
    """Every check, in the order a user meets the parts."""
    checks: list[Callable[[], Check]] = [
        check_cameras, check_display, check_providers, check_cpu, check_virtual_camera,
        check_barriers,
    ]  # fmt: skip
    return [*(check() for check in checks), check_bundle(bundle)]


def to_json(checks: list[Check]) -> dict[str, object]:
    """`{"ok": bool, "checks": [{"name", "status", "got", "cure"}]}`."""
    is_ok = all(check.status != "fail" for check in checks)
    return {"ok": is_ok, "checks": [asdict(check) for check in checks]}


def to_text(checks: list[Check]) -> str:
    """One line for each check, and one for what to do."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:<5} {check.name}: {check.got}")
        if check.cure:
            lines.append(f"      -> {check.cure}")
    return "\n".join(lines)
