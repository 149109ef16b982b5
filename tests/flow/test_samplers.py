import math
from functools import partial

import pytest
import torch

from golden_files import load_golden
from pixelgen.flow import AdamsBashforth, Euler, Heun
from pixelgen.flow.samplers import lagrange_means

CASES = [f"case{i:02d}" for i in range(10)]


def golden_network(x, t, c):
    t, c = t.view(-1, 1, 1, 1), c.view(-1, 1, 1, 1)
    return 0.6 * torch.tanh(x) + 0.25 * torch.sin(3 * t + c) * x + 0.1 * c * t


def build(settings):
    options = dict(
        num_steps=settings["num_steps"],
        shift=settings["timeshift"],
        guidance=settings["guidance"],
        guidance_min=settings.get("guidance_interval_min", 0.0),
        guidance_max=settings.get("guidance_interval_max", 1.0),
    )
    if settings["sampler"] == "euler":
        return Euler(**options)
    if settings["sampler"] == "heun":
        return Heun(exact=settings["exact_henu"], **options)
    return AdamsBashforth(order=settings["order"], **options)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_release(case):
    tensors, settings = load_golden("samplers")
    sampler = build(settings[case])
    states = [tensors["input.noise"]]
    sample = sampler(
        golden_network,
        tensors["input.noise"],
        tensors["input.condition"],
        tensors["input.uncondition"],
        progress=lambda step, x: states.append(x),
    )
    assert torch.allclose(torch.tensor(sampler.times).float(), tensors[f"{case}.timesteps"], atol=1e-6)
    assert (states[len(states) // 2] - tensors[f"{case}.halfway"]).abs().max() < 1e-5
    assert (sample - tensors[f"{case}.sample"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("sampler", "conditional", "unconditional"),
    [
        (Heun(num_steps=50, shift=2.0), 99, 0),
        (Euler(num_steps=50), 50, 0),
        (Heun(num_steps=50, shift=2.0, guidance=2.25, guidance_min=0.1, guidance_max=0.9), 99, 76),
        (AdamsBashforth(num_steps=25, shift=3.0, guidance=4.0), 25, 24),
        (Heun(num_steps=10, exact=False), 10, 0),
    ],
)
def test_only_needed_branches_are_computed(sampler, conditional, unconditional):
    calls = {0.0: 0, 1.0: 0}

    def network(x, t, c):
        for value in c.tolist():
            calls[value] += 1
        return torch.zeros_like(x)

    sampler(network, torch.randn(1, 3, 2, 2), torch.ones(1), torch.zeros(1))
    assert (calls[1.0], calls[0.0]) == (conditional, unconditional)


@pytest.mark.parametrize(
    ("solver", "order"),
    [(Euler, 1), (Heun, 2), *((partial(AdamsBashforth, order=k), k) for k in (1, 2, 3, 4))],
)
def test_order_of_convergence(solver, order):
    """On dx/dt = x·cos(t), whose solution is exp(sin t), half the step divides the error by 2^order."""
    errors = []
    for steps in (64, 128):
        x = solver(steps).solve(lambda x, t, start: x * math.cos(t), torch.ones(1, dtype=torch.float64))
        errors.append(abs(float(x) - math.exp(math.sin(1.0))))
    # Adams-Bashforth starts with lower orders, and Heun ends with an Euler step: both cost O(dt²)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(min(order, 2), abs=0.25)


def test_lagrange_means_are_the_textbook_weights():
    assert lagrange_means([0.0, 1.0, 2.0, 3.0], 3.0, 4.0) == pytest.approx([-9 / 24, 37 / 24, -59 / 24, 55 / 24])
    assert sum(lagrange_means([0.0, 0.1, 0.7], 0.7, 0.8)) == pytest.approx(1)


def test_final_image_is_the_last_prediction_when_the_step_ends_at_one():
    """The last Euler step from t = 1 - dt with dt >= t_eps lands exactly on x_hat."""
    target = torch.rand(2, 3, 4, 4)
    sample = Euler(num_steps=10)(lambda x, t, c: target, torch.randn(2, 3, 4, 4))
    assert torch.allclose(sample, target, atol=1e-5)


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"shift": 0.0}, {"guidance_min": 0.9, "guidance_max": 0.1}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match=r"sampler\.\w+ is 0|empty"):
        Euler(**options)


def test_orders_beyond_four_are_refused():
    with pytest.raises(ValueError, match="order is 5: give a whole number of at least 1 and at most 4"):
        AdamsBashforth(order=5)
