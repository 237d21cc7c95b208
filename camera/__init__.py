"""The live side: source, analysis, code, generator, compose, sink. It never imports jax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veilcam.camera.pictures import protect

__all__ = ["protect"]


def __getattr__(name: str) -> Any:
    """`protect` on first use: importing the package loads no model and touches no device."""
    if name == "protect":
        from veilcam.camera.pictures import protect

        return protect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
