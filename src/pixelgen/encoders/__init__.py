"""Frozen networks shared by losses and metrics."""

from pixelgen.encoders.frozen import FeatureExtractor, FrozenEncoder, PatchEncoder

__all__ = ["FeatureExtractor", "FrozenEncoder", "PatchEncoder"]
