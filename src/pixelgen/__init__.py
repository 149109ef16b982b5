"""Train diffusion models directly in pixel space: PixelGen on PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixelgen.module import PixelGen
    from pixelgen.runs.run import load

__all__ = ["PixelGen", "load"]

_MODULES = {"PixelGen": "pixelgen.module", "load": "pixelgen.runs.run"}


def __getattr__(name: str) -> Any:
    """Import on first use: Lightning alone takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module 'pixelgen' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
