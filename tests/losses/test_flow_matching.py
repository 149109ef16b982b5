import torch

from pixelgen.losses import FlowMatching, Prediction, velocity_loss


def test_weights_the_x_error_by_the_clamped_distance():
    """Errors 1 and 2 at t = 0.5 and 0.99: (1/0.5)² = 4 and (2/0.05)² = 1600."""
    x, x_t = torch.zeros(2, 1, 1, 1), torch.randn(2, 1, 1, 1)
    x_hat = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    loss = velocity_loss(x_hat, x, x_t, torch.tensor([0.5, 0.99]))
    assert torch.allclose(loss, torch.tensor((4 + 1600) / 2), rtol=1e-5)
    assert torch.equal(FlowMatching(0.05).compute(Prediction(x, x_t, torch.tensor([0.5, 0.99]), x_hat)), loss)


def test_is_float32_whatever_comes_in():
    x = torch.zeros(1, 1, 1, 1)
    loss = velocity_loss(x.bfloat16() + 1, x, x, torch.tensor([0.0]))
    assert loss.dtype == torch.float32
