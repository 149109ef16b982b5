"""Data sets: image folders, and shapes drawn by code."""

from pixelgen.data.imagenet import ImageFolderData
from pixelgen.data.images import ImageData, centre_crop
from pixelgen.data.shapes import ShapesData

__all__ = ["ImageData", "ImageFolderData", "ShapesData", "centre_crop"]
