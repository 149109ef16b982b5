import pytest
import torch

from pixelgen.flow import NotFinite, draw_noise, interpolate, to_float, to_uint8, velocity_from_x, x_from_velocity


def test_path_ends_at_noise_and_image():
    x, noise = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    x_t = interpolate(x, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(x_t[0], noise[0])
    assert torch.equal(x_t[1], x[1])


def test_x_to_v_and_back_in_float64():
    x_hat, x_t = torch.rand(64, 3, 4, 4, dtype=torch.float64), torch.randn(64, 3, 4, 4, dtype=torch.float64)
    t = torch.linspace(0, 1, 64, dtype=torch.float64)
    back = x_from_velocity(velocity_from_x(x_hat, x_t, t), x_t, t)
    assert (back - x_hat).abs().max() < 1e-14


def test_velocity_of_the_path_is_image_minus_noise():
    x, noise = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    t = torch.tensor([0.0, 0.4, 0.94])
    assert torch.allclose(velocity_from_x(x, interpolate(x, noise, t), t), x - noise, atol=1e-4)


def test_distance_is_clamped_near_the_image():
    v = velocity_from_x(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([0.99]), t_eps=0.05)
    assert torch.allclose(v, torch.tensor(20.0))


def test_noise_belongs_to_its_seed():
    together = draw_noise([3, 4, 5], (3, 8, 8), scale=2.0)
    assert torch.equal(together[1:2], draw_noise([4], (3, 8, 8), scale=2.0))
    assert torch.equal(together, 2 * draw_noise([3, 4, 5], (3, 8, 8)))


def test_bytes_are_truncated_as_published():
    values = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NotFinite, match="not finite"):
            to_uint8(torch.tensor([0.0, bad]))
