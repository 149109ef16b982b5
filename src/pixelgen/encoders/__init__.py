"""Frozen networks shared by losses and metrics."""

from pixelgen.encoders.dino import DINOv2Features, VisionTransformerPatches, dinov2
from pixelgen.encoders.frozen import FeatureExtractor, FeaturePyramid, FrozenEncoder, PatchEncoder
from pixelgen.encoders.inception import Inception
from pixelgen.encoders.text import TextEncoder, minilm
from pixelgen.encoders.timm import Backbone, BackboneFeatures, BackbonePatches
from pixelgen.encoders.vgg import VGG16

__all__ = [
    "VGG16",
    "Backbone",
    "BackboneFeatures",
    "BackbonePatches",
    "DINOv2Features",
    "FeatureExtractor",
    "FeaturePyramid",
    "FrozenEncoder",
    "Inception",
    "PatchEncoder",
    "TextEncoder",
    "VisionTransformerPatches",
    "dinov2",
    "minilm",
]
