"""Data sets: image folders, streamed shards, and shapes drawn by code."""

from pixelgen.data.captions import Captions
from pixelgen.data.folder import ImageFolderData
from pixelgen.data.images import ImageData, centre_crop
from pixelgen.data.shapes import ShapesData
from pixelgen.data.shards import ShardData

__all__ = ["Captions", "ImageData", "ImageFolderData", "ShapesData", "ShardData", "centre_crop"]
