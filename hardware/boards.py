"""Facts of the boards we know, out of `profiles/*.toml`, read strictly."""

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any, get_origin

from veilcam.camera.errors import ConfigError

INSTALLS = ("image", "package")
ARCHITECTURES = ("x86-64", "arm64")
PRECISIONS = ("int8", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What starts.

    Attributes:
        install: `image`: we make all of it; `package`: a service on the maker's own system.
        architecture: x86-64 or arm64.
        kernel_package: Debian's name, or the maker's.
        boot: How it starts, for people.
        wheel_platforms: Tags of the wheels that run there.
    """

    install: str
    architecture: str
    kernel_package: str
    boot: str
    wheel_platforms: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Which cameras, through which programs."""

    stack: str
    cameras: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """Where to begin; `veilcam bench --tune` measures.

    Attributes:
        execution_providers: Names of ONNX Runtime, best first.
        precision: int8 or fp32.
        threads: At least 1.
    """

    execution_providers: list[str]
    precision: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The least it needs, in MB, and what heat does."""

    memory_mb: int
    disk_mb: int
    thermal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """All of one board.

    Attributes:
        name: The file's name.
        title: For people.
        status: What was run.
        untested: What was not, and must not be promised.
        system: See `System`.
        camera: See `Camera`.
        inference: See `Inference`.
        limits: See `Limits`.
    """

    name: str
    title: str
    status: str
    untested: list[str]
    system: System
    camera: Camera
    inference: Inference
    limits: Limits


_SECTIONS = {"system": System, "camera": Camera, "inference": Inference, "limits": Limits}


def board_names() -> list[str]:
    """Names of all boards."""
    folder = files("veilcam.hardware.profiles")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_board(name: str) -> Board:
    """Facts of one board. Raises ConfigError for an unknown name."""
    if name not in board_names():
        raise ConfigError(f"unknown board {name!r}; known: {', '.join(board_names())}")
    text = (files("veilcam.hardware.profiles") / f"{name}.toml").read_text()
    return parse_board(name, text)


def parse_board(name: str, text: str) -> Board:
    """A profile's text as facts.

    Raises:
        ConfigError: A key is missing, unknown, of the wrong type or out of range.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}.toml: {error}") from error
    parts = {key: _make(kind, values.pop(key, {}), f"{name}.toml [{key}]")
             for key, kind in _SECTIONS.items()}  # fmt: skip
    board: Board = _make(Board, values | {"name": name} | parts, f"{name}.toml")
    _check(board)
    return board


def _make(kind: type[Any], values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is no table")
    known = {entry.name: entry.type for entry in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    if missing := [key for key in known if key not in values]:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing")
    for key, value in values.items():
        wanted = get_origin(known[key]) or known[key]
        if type(value) is not wanted or (wanted is list and not _is_texts(value)):
            raise ConfigError(f"{where}: {key} is {value!r}, wanted {known[key]}")
    return kind(**values)


def _is_texts(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(entry, str) for entry in value)


def _check(board: Board) -> None:
    for key, value, allowed in (
        ("system install", board.system.install, INSTALLS),
        ("system architecture", board.system.architecture, ARCHITECTURES),
        ("inference precision", board.inference.precision, PRECISIONS),
    ):
        if value not in allowed:
            raise ConfigError(f"{board.name}.toml: {key} is {value!r}, wanted {', '.join(allowed)}")
    providers = board.inference.execution_providers
    if not all(name.endswith("ExecutionProvider") for name in providers):
        raise ConfigError(f"{board.name}.toml: {providers} are not all names of ONNX Runtime")
    for key in ("memory_mb", "disk_mb"):
        if getattr(board.limits, key) < 256:
            raise ConfigError(f"{board.name}.toml: {key} must be >= 256")
    if not 1 <= board.inference.threads <= 64:
        raise ConfigError(f"{board.name}.toml: threads must be from 1 to 64")
