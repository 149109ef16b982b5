"""Averages put together from others are those that training would have made, on trajectories that are known."""

import shutil

import numpy as np
import pytest
import torch

import pixelgen
from pixelgen.runs.averages import Profile, mixture, power_function_gamma, width_of
from pixelgen.runs.run import Run
from pixelgen.sample import main


def average(trajectory, step, width):
    """What the callback makes of the weights of steps 1, 2, …, `step`."""
    gamma, value = power_function_gamma(width), 0.0
    for t in range(1, step + 1):
        beta = (1 - 1 / t) ** (gamma + 1)
        value = beta * value + (1 - beta) * trajectory(t)
    return value


def test_products_of_profiles_are_their_integrals():
    steps = (np.arange(400_000) + 0.5) / 400_000 * 100

    def values(profile):
        gamma = power_function_gamma(profile.width)
        return np.where(steps <= profile.step, (gamma + 1) * steps**gamma / profile.step ** (gamma + 1), 0)

    for a, b in [((100, 0.1), (100, 0.05)), ((60, 0.1), (100, 0.05)), ((60, 0.05), (80, 0.2)), ((50, 0.1), (50, 0.1))]:
        expected = (values(Profile(*a)) * values(Profile(*b))).mean() * 100
        assert Profile(*a).dot(Profile(*b)) == pytest.approx(expected, rel=1e-4)
        assert Profile(*b).dot(Profile(*a)) == pytest.approx(expected, rel=1e-4)


def test_a_stored_average_is_itself():
    stored = [Profile(step, width) for step in (50, 100) for width in (0.05, 0.1)]
    shares, error = mixture(stored, Profile(100, 0.1))
    assert shares == pytest.approx([0, 0, 0, 1], abs=1e-8)
    assert error < 1e-6


@pytest.mark.parametrize("width", [0.06, 0.08, 0.12, 0.15])
def test_other_widths_average_a_known_trajectory_as_training_would(width):
    stored = [Profile(step, at) for step in range(250, 4001, 250) for at in (0.05, 0.1)]
    shares, error = mixture(stored, Profile(4000, width))
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert error < 0.03
    for trajectory in (lambda t: t / 4000, lambda t: np.sin(t / 500), lambda t: (t / 4000) ** 3):
        mixed = sum(share * average(trajectory, p.step, p.width) for share, p in zip(shares, stored, strict=True))
        # the profile is of continuous time: half a step of difference
        assert mixed == pytest.approx(average(trajectory, 4000, width), abs=1e-3)


def test_the_average_of_a_power_is_its_closed_form():
    gamma = power_function_gamma(0.08)
    stored = [Profile(step, at) for step in range(500, 4001, 500) for at in (0.05, 0.1)]
    shares, _ = mixture(stored, Profile(4000, 0.08))

    def of_square(profile):  # of (τ/4000)², by integration
        own = power_function_gamma(profile.width)
        return (own + 1) / (own + 3) * (profile.step / 4000) ** 2

    mixed = sum(share * of_square(profile) for share, profile in zip(shares, stored, strict=True))
    assert mixed == pytest.approx((gamma + 1) / (gamma + 3), rel=1e-4)


@pytest.fixture(scope="module")
def run(demo_run, tmp_path_factory):
    """A run whose weights are those of a known trajectory, with two widths in each of its checkpoints."""
    folder = tmp_path_factory.mktemp("posthoc") / "run"
    shutil.copytree(demo_run, folder, ignore=shutil.ignore_patterns("samples"))
    (last,) = (folder / "checkpoints").glob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    shutil.rmtree(folder / "checkpoints")
    last.parent.mkdir()
    (first,) = checkpoint["callbacks"]["EMA"]["averages"].values()
    for step in range(100, 901, 100):
        filled = {
            f"width{width:.2f}": {
                key: torch.full_like(value, average(slope, step, width)) for key, value in first.items()
            }
            for width in (0.05, 0.1)
        }
        checkpoint["callbacks"]["EMA"] |= {"averages": filled, "step": step}
        checkpoint["global_step"] = step
        torch.save(checkpoint, last.with_name(f"step_{step:07d}.ckpt"))
    shutil.copyfile(last.with_name("step_0000800.ckpt"), last)  # as after going on from an older checkpoint
    return folder


def slope(t):
    return t / 1000


def test_a_model_of_a_width_that_no_checkpoint_holds(run):
    for source, step in ((run, 800), (run / "checkpoints" / "step_0000500.ckpt", 500)):
        model = pixelgen.load(source, "width0.07", "cpu")
        for value in model.denoiser.parameters():
            if value.requires_grad:
                assert value.dtype == torch.float32
                assert torch.allclose(value, torch.tensor(average(slope, step, 0.07), dtype=torch.float32), atol=1e-3)
    stored = Run(run).model("width0.10", "cpu").denoiser.state_dict()
    expected = pixelgen.load(run, "width0.10", "cpu").denoiser.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in stored.items())


def test_too_few_checkpoints_are_told(run, demo_run, tmp_path):
    with pytest.warns(
        UserWarning, match=r"2 stored averages make width0.2 with an error of \d\d% of its profile: keep"
    ):
        Run(run / "checkpoints" / "step_0000100.ckpt").weights("width0.2")
    with pytest.raises(ValueError, match=r"holds no averages by width to make width0.07 of: train with"):
        pixelgen.load(demo_run, "width0.07")
    with pytest.raises(ValueError, match=r"width0.5 is no average: relative widths lie between 0 and 0.28"):
        Run(run).check("width0.5")


def test_images_of_it_are_a_set_of_their_own(run):
    folder = main([str(run), "--ema", "width0.07", "--num_images", "1"])
    assert folder.name.startswith("width0.07-step800-Euler2-")


def test_widths_in_names():
    assert [width_of(name) for name in ("width0.10", "width0.075", "0.9999", "raw", "widths", True, 0.9)] == [
        0.1, 0.075, None, None, None, None, None,
    ]  # fmt: skip
