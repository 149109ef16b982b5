"""An extractor with everything Inception has, that takes no time and can be worked out elsewhere."""

import torch
from torch import nn

from pixelgen.encoders import FeatureExtractor
from pixelgen.evaluation.extract import Extraction


class Toy(FeatureExtractor):
    """Mean and deviation of each channel; the corners' red; the mean of each quarter as logits."""

    def __init__(self):
        super().__init__(nn.Identity(), "toy", 6)
        self.passes = 0

    @property
    def sizes(self):
        return {"features": 6, "spatial": 4, "logits": 4}

    def forward(self, images):
        return self.outputs(images)["features"]

    def outputs(self, images, wanted=("features",)):
        self.passes += 1
        x = images.float() / 255
        rows, columns = (slice(None, None, side - 1) for side in x.shape[-2:])
        every = {
            "features": torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1),
            "spatial": x[:, 0, rows, columns].flatten(1),
            "logits": 10 * nn.functional.adaptive_avg_pool2d(x.mean(1), 2).flatten(1),
        }
        return {name: every[name] for name in wanted}


def draw(count, size=8, seed=0, brightness=0):
    """Random images (count, 3, size, size), uint8."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 100 + brightness, (count, 3, 1, 1), generator=generator)
    return (low + torch.randint(0, 100, (count, 3, size, size), generator=generator)).to(torch.uint8)


def write_folder(images, folder):
    """PNGs of images (N, 3, H, W)."""
    from PIL import Image

    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:06d}.png")
    return folder


def reference_of(images, metrics):
    """Statistics of images as a reference, with what metrics need."""
    extraction = Extraction(Toy(), len(images), metrics.of_reference(Toy()), metrics)
    extraction.update(images, range(len(images)))
    return extraction.statistics()
