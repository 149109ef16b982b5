import pytest
import torch
from torch import nn
from torch.nn import functional as F

from golden_files import load_golden, section
from pixelgen.encoders import FeaturePyramid, PatchEncoder
from pixelgen.flow import LogitNormalTime, TimeSampler, interpolate
from pixelgen.losses import PDINO, REPA, AdaptiveWeight, NoiseGate, Objective, PerceptualLoss, Prediction
from pixelgen.models import JiT


def patches(images):
    return F.unfold(images, 4, stride=4).transpose(1, 2)


class PatchStandIn(PatchEncoder):
    """The golden files' stand-in for DINO; counts the images it sees."""

    def __init__(self):
        super().__init__(nn.Identity(), 48)
        self.seen = []

    def forward(self, images):
        self.seen.append((len(images), torch.is_grad_enabled()))
        return patches((images + 1) / 2 - 0.45)


class SquaredStandIn(PerceptualLoss):
    """The golden files' stand-in for LPIPS: mean squared difference; records which samples it sees."""

    name = "lpips"

    def __init__(self, weight=0.1):
        super().__init__(FeaturePyramid(nn.Identity(), [3]), weight)
        self.seen = []

    def forward(self, x_hat, x):
        self.seen.append(x)
        return (x_hat - x).square().flatten(1).mean(1)


def network(patch_size=4, hidden_size=8, depth=1):
    return JiT(32, patch_size, hidden_size=hidden_size, depth=depth, num_heads=2, in_context_len=0)


def golden_case(case, gated):
    tensors, settings = load_golden("loss")
    settings = settings[case]
    inputs, expected = section(tensors, f"{case}.input"), section(tensors, f"{case}.expected")
    repa = REPA(layer=0, weight=settings.get("feat_loss_weight", 0.5), projector_dim=16)
    objective = Objective(
        lpips=SquaredStandIn(settings["lpips_weight"]),
        pdino=PDINO(settings["dino_weight"], gated=gated),
        repa=repa,
        encoder=PatchStandIn(),
        gate=NoiseGate(settings["percept_t_threshold"]),
    )
    objective.connect(network(hidden_size=48, depth=1), LogitNormalTime())
    repa.load_state_dict(section({k: v for k, v in tensors.items() if k.startswith(case)}, case), strict=False)
    noise = inputs["noise"] * settings.get("noise_scale", 1.0)
    x_t = interpolate(inputs["x"], noise, inputs["t"])
    t, y = (inputs[key].view(-1, 1, 1, 1) for key in ("t", "class_label"))
    x_hat = 0.8 * torch.tanh(x_t) + 0.1 * t + 0.02 * y
    return objective, Prediction(inputs["x"], x_t, inputs["t"], x_hat, patches(x_hat)), expected


@pytest.mark.parametrize("case", ["case00", "case01", "case02", "case03"])
@pytest.mark.parametrize("gated", [False, True])
def test_agrees_with_the_release(case, gated):
    objective, prediction, expected = golden_case(case, gated)
    terms = objective(prediction)
    assert (terms.values["flow_matching"] - expected["fm"]).abs() < 1e-5
    assert (terms.values["lpips"] - expected["lpips"]).abs() < 1e-5
    assert (terms.values["pdino"] - expected[f"pdino_{'gated' if gated else 'ungated'}"]).abs() < 1e-5
    assert (terms.values["repa"] - expected["repa"]).abs() < 1e-5
    if not gated:
        assert (objective.combine(terms) - expected["total"]).abs() < 1e-5


def test_the_gate_selects_before_the_network_runs():
    objective, prediction, _ = golden_case("case00", gated=True)
    objective(prediction)
    (seen,) = objective.lpips.seen
    assert torch.equal(seen, prediction.x[1:])


def test_clean_features_are_computed_once_without_gradient():
    objective, prediction, _ = golden_case("case00", gated=False)
    objective(prediction)
    assert objective.encoder.seen == [(4, False), (4, True)]


def test_without_repa_gated_pdino_looks_at_passing_samples_only():
    objective, prediction, expected = golden_case("case00", gated=True)
    objective.repa = None
    assert (objective(prediction).values["pdino"] - expected["pdino_gated"]).abs() < 1e-5
    assert objective.encoder.seen == [(3, False), (3, True)]


def test_nothing_runs_when_nothing_passes():
    objective, prediction, _ = golden_case("case01", gated=True)
    objective.repa = None
    terms = objective(prediction)
    assert objective.lpips.seen == objective.encoder.seen == []
    assert float(terms.values["lpips"]) == float(terms.values["pdino"]) == terms.passed == 0


def test_without_gated_terms_nothing_is_selected(monkeypatch):
    _, prediction, expected = golden_case("case00", gated=False)
    monkeypatch.setattr(Prediction, "select", lambda *_, **__: pytest.fail("samples are copied for nothing"))
    terms = Objective()(prediction)
    assert 0 < terms.passed < 1
    assert (terms.values["flow_matching"] - expected["fm"]).abs() < 1e-5


def test_empty_slots_leave_no_trace():
    _, prediction, expected = golden_case("case00", gated=False)
    terms = Objective()(prediction)
    assert list(terms.values) == ["flow_matching"]
    assert (Objective().combine(terms) - expected["fm"]).abs() < 1e-5


def test_expected_normalisation_does_not_depend_on_the_batch():
    objective, prediction, expected = golden_case("case00", gated=True)
    objective.expected = 0.5  # three of four samples pass
    assert float(objective(prediction).values["lpips"]) == pytest.approx(float(expected["lpips"]) * 3 / (4 * 0.5))


@pytest.mark.parametrize(
    ("threshold", "shift", "expected"), [(0.3, 1.0, 0.5236), (0.6, 1.0, 0.0660), (0.3, 2.0, 0.2097)]
)
def test_the_expected_fraction_is_that_of_the_training_times(threshold, shift, expected):
    time = LogitNormalTime(shift=shift)
    objective = Objective(lpips=SquaredStandIn(), gate=NoiseGate(threshold, "expected"))
    objective.connect(network(), time)
    assert objective.expected == pytest.approx(expected, abs=1e-4)
    assert float((time(200_000) >= threshold).float().mean()) == pytest.approx(expected, abs=5e-3)
    assert TimeSampler.fraction_above(time, threshold) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("threshold", [30, -0.1, 1])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ValueError, match="give a number of at least 0 and below 1"):
        NoiseGate(threshold)


def test_a_null_gate_lets_every_sample_pass():
    objective, prediction, _ = golden_case("case00", gated=True)
    objective.gate = None
    terms = objective(prediction)
    assert terms.passed == 1
    assert len(objective.lpips.seen[0]) == len(prediction.x)
    assert torch.allclose(terms.values["lpips"], (prediction.x_hat - prediction.x).square().mean())


def test_weights_of_zero_are_refused():
    with pytest.raises(ValueError, match=r"set objective\.lpips to null"):
        Objective(lpips=SquaredStandIn(weight=0.0))
    with pytest.raises(ValueError, match=r"a term 'lpips' of weight 0\.0: give one above 0, or leave the term out"):
        Objective(more=[SquaredStandIn(weight=0.0)])
    with pytest.raises(ValueError, match="flow_matching is null: give an instance of FlowMatching"):
        Objective(flow_matching=None)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"pdino": PDINO()}, "need an encoder"),
        ({"encoder": PatchStandIn()}, "set the encoder to null"),
    ],
)
def test_inconsistent_slots_are_refused(slots, message):
    with pytest.raises(ValueError, match=message):
        Objective(**slots)


def test_repa_refuses_a_layer_that_does_not_exist_and_other_grids():
    objective = Objective(repa=REPA(layer=8), encoder=PatchStandIn())
    with pytest.raises(ValueError, match="blocks 0 to 5"):
        objective.connect(network(depth=6), LogitNormalTime())
    objective.connect(network(depth=9), LogitNormalTime())
    p = Prediction(*[torch.zeros(1, 3, 8, 8)] * 2, torch.zeros(1), torch.zeros(1, 3, 8, 8), torch.zeros(1, 16, 8))
    p.encoder = objective.encoder
    with pytest.raises(ValueError, match="16 patches and the encoder gives 4 tokens"):
        objective.repa.compute(p)


def test_adaptive_weight_follows_the_ratio_of_gradients():
    adaptive = AdaptiveWeight(start_step=100, interval=50, momentum=0.8)
    assert [step for step in range(300) if adaptive.due(step)] == [100, 150, 200, 250]
    weight = nn.Parameter(torch.ones(4))
    adaptive.update((3.0 * weight).sum(), (2.0 * weight).sum(), weight, step=100)
    assert not adaptive.due(100)  # a second micro-batch of the same step
    assert float(adaptive.weight) == pytest.approx(0.8 + 0.2 * 6 / (4 + 1e-4))
    adaptive.update((3.0 * weight).sum(), (0.0 * weight).sum(), weight, step=150)
    ratio = 0.8 + 0.2 * 6 / (4 + 1e-4)
    assert float(adaptive.weight) == pytest.approx(0.8 * ratio + 0.2 * 100)
    before = adaptive.weight.clone()
    adaptive.update((float("nan") * weight).sum(), weight.sum(), weight, step=200)
    adaptive.update(weight.sum(), (0.0 * weight).sum(), weight, step=250, active=False)
    assert torch.allclose(adaptive.weight, before)  # neither a bad gradient nor an empty gate has a vote
    restored = AdaptiveWeight()
    restored.load_state_dict(adaptive.state_dict())
    assert torch.equal(restored.weight, adaptive.weight)


def test_an_encoder_for_other_patches_is_refused():
    encoder = PatchStandIn()
    encoder.patch_size = 16
    with pytest.raises(ValueError, match=r"encoder\.patch_size is 16, but the denoiser's is 32"):
        Objective(pdino=PDINO(), encoder=encoder).connect(network(patch_size=32), LogitNormalTime())


def test_adaptive_weight_multiplies_only_perceptual_terms():
    objective, prediction, _ = golden_case("case00", gated=False)
    objective.adaptive = AdaptiveWeight(start_step=10)
    objective.adaptive.weight.fill_(3.0)
    terms = objective(prediction)
    v = terms.values
    expected = v["flow_matching"] + 0.5 * v["repa"] + 3 * (0.1 * v["lpips"] + 0.01 * v["pdino"])
    assert torch.allclose(objective.combine(terms), expected)
