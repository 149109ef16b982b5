"""The linear path between noise (t = 0) and image (t = 1), and the one conversion between x and v."""

from collections.abc import Sequence

import torch
from torch import Tensor


def expand(t: Tensor, x: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, …), to be broadcast against `x`."""
    return t.view(-1, *[1] * (x.ndim - 1))


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """`x_t = t·x + (1-t)·noise`, with `t` (B,) in [0, 1]."""
    t = expand(t, x)
    return t * x + (1 - t) * noise


def velocity_from_x(x_hat: Tensor, x_t: Tensor, t: Tensor, t_eps: float = 0.05) -> Tensor:
    """`v = (x_hat - x_t) / max(1-t, t_eps)`, in float32 or wider."""
    wide = torch.promote_types(x_t.dtype, torch.float32)
    distance = (1 - t.to(wide)).clamp_min(t_eps)
    return (x_hat.to(wide) - x_t.to(wide)) / expand(distance, x_t)


def x_from_velocity(v: Tensor, x_t: Tensor, t: Tensor, t_eps: float = 0.05) -> Tensor:
    """`x_hat = x_t + max(1-t, t_eps)·v`, the inverse of `velocity_from_x`."""
    wide = torch.promote_types(x_t.dtype, torch.float32)
    distance = (1 - t.to(wide)).clamp_min(t_eps)
    return x_t.to(wide) + expand(distance, x_t) * v.to(wide)


def draw_noise(
    seeds: Sequence[int], shape: Sequence[int], device: torch.device | str | None = None, scale: float = 1.0
) -> Tensor:
    """Noise (len(seeds), *shape), N(0, scale²): one generator per image, so an image depends on its own seed only.

    It is drawn on the CPU, so that a seed gives the same image on every device.
    """
    noise = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return scale * torch.stack(noise).to(device)


def noise_like(x: Tensor, seeds: Sequence[int], scale: float = 1.0) -> Tensor:
    """Noise shaped like `x` (B, …), N(0, scale²), one seed per image as in `draw_noise`, drawn on the device of `x`.

    Nothing is copied to the device, so that a training step does not wait; a seed means another image on a GPU.
    """
    noise, generator = torch.empty_like(x), torch.Generator(x.device)
    for image, seed in zip(noise, seeds, strict=True):
        image.normal_(0, scale, generator=generator.manual_seed(seed))
    return noise


def to_float(images: Tensor) -> Tensor:
    """uint8 images → float32 in [-1, 1]; floating-point images pass unchanged."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


class NotFinite(ValueError):
    """Images hold values that are NaN or infinite."""


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] → bytes: `clamp(127.5·x + 128, 0, 255)`, truncated (the published evaluation's rule).

    `NotFinite` refuses what would become black pixels.
    """
    if not images.isfinite().all():
        raise NotFinite("the images hold values that are not finite (NaN or infinite)")
    return (127.5 * images.float() + 128).clamp(0, 255).to(torch.uint8)
