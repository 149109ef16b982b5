"""Denoisers: networks that predict the clean image."""

from pixelgen.models.denoiser import Denoiser
from pixelgen.models.jit import JiT
from pixelgen.models.sizes import Size, jit, text_jit
from pixelgen.models.text_jit import TextJiT

__all__ = ["Denoiser", "JiT", "Size", "TextJiT", "jit", "text_jit"]
