"""Sets of images on disk: asked for, made by several processes, drawn as grids, packed, measured."""
