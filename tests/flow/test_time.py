import pytest
import torch

from pixelgen.flow import LogitNormalTime, shift_time


@pytest.mark.parametrize("stratified", [False, True])
def test_almost_half_of_the_times_are_below_the_gate(stratified):
    torch.manual_seed(0)
    sampler = LogitNormalTime(stratified=stratified)
    t = torch.cat([sampler(64) for _ in range(2000)])
    assert (t < 0.3).float().mean().item() == pytest.approx(0.476, abs=0.005)
    logit = torch.logit(t.double())
    assert logit.mean().item() == pytest.approx(-0.8, abs=0.01)
    assert logit.std().item() == pytest.approx(0.8, abs=0.01)


def test_strata_hold_one_time_each():
    sampler = LogitNormalTime(stratified=True)
    t = sampler(16).sort().values
    cdf = torch.special.ndtr((torch.logit(t.double()) + 0.8) / 0.8)
    assert (cdf * 16).floor().tolist() == list(range(16))


def test_strata_lower_the_variance_of_a_batch_mean():
    torch.manual_seed(0)
    plain, stratified = (
        torch.stack([sampler(32).mean() for _ in range(400)]).var()
        for sampler in (LogitNormalTime(), LogitNormalTime(stratified=True))
    )
    assert stratified < plain / 20


def test_shift_moves_times_towards_noise():
    u = torch.tensor([0.0, 0.5, 1.0])
    assert shift_time(u, 3.0).tolist() == [0.0, 0.25, 1.0]
    assert torch.equal(shift_time(u, 1.0), u)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"time\.shift is 0: give a number above 0"):
        LogitNormalTime(shift=0)
