import math
from hashlib import sha256

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.statistics import Moments, Statistics, frechet_distance


def covariance(dim, rank, seed):
    root = torch.randn(dim, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T / rank


def test_one_dimension():
    # (m1 - m2)^2 + (s1 - s2)^2 = (1 - 3)^2 + (2 - 5)^2
    assert frechet_distance(
        torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([3.0]), torch.tensor([[25.0]])
    ) == pytest.approx(13)


def test_diagonal_covariances():
    mu1, mu2 = torch.zeros(3), torch.tensor([1.0, 2.0, 2.0])
    sigma1, sigma2 = torch.diag(torch.tensor([1.0, 4.0, 9.0])), torch.diag(torch.tensor([4.0, 4.0, 0.0]))
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(9 + 1 + 0 + 9)


def test_agrees_with_a_general_matrix_square_root():
    mu = torch.zeros(20)
    sigma1, sigma2 = covariance(20, 80, seed=1), covariance(20, 80, seed=2)
    expected = np.trace((sigma1 + sigma2).numpy()) - 2 * np.trace(sqrtm((sigma1 @ sigma2).numpy())).real
    assert frechet_distance(mu, sigma1, mu, sigma2) == pytest.approx(expected, rel=1e-10)


def test_singular_covariances():
    # disjoint supports: the cross term vanishes; equal ones: the distance does
    blocks = torch.zeros(2, 40, 40, dtype=torch.float64)
    blocks[0, :20, :20], blocks[1, 20:, 20:] = covariance(20, 5, seed=1), covariance(20, 5, seed=2)
    mu = torch.zeros(40, dtype=torch.float64)
    apart = frechet_distance(mu, blocks[0], mu, blocks[1])
    assert apart == pytest.approx(float(blocks[0].trace() + blocks[1].trace()), abs=1e-6)
    assert frechet_distance(mu, blocks[0], mu, blocks[0]) == pytest.approx(0, abs=1e-6)


def test_symmetric():
    sigma1, sigma2 = covariance(16, 4, seed=1), covariance(16, 64, seed=2)
    mu1, mu2 = torch.zeros(16), torch.arange(16.0)
    there, back = frechet_distance(mu1, sigma1, mu2, sigma2), frechet_distance(mu2, sigma2, mu1, sigma1)
    assert there == pytest.approx(back, rel=1e-9)


def test_different_dimensions():
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        frechet_distance(torch.zeros(3), torch.eye(3), torch.zeros(4), torch.eye(4))


def test_statistics_equal_numpy_at_any_batch_size():
    features = 100 + torch.randn(50, 6, generator=torch.Generator().manual_seed(0))  # a mean far from 0
    metric = Moments(6)
    for batch in features.split(7):
        metric.update(batch)
    mu, sigma, n = metric.compute()
    assert n == 50
    assert mu.dtype == sigma.dtype == torch.float64
    np.testing.assert_allclose(mu, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(features.double().numpy().T), rtol=1e-7, atol=1e-9)


def test_statistics_add_up_over_processes():
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    whole, parts = Moments(4), [Moments(4), Moments(4)]
    whole.update(features)
    parts[0].update(features[::2])
    parts[1].update(features[1::2])
    parts[0]._reduce_states({name: getattr(parts[1], name) for name in ("n", "total", "outer")})
    for one, two in zip(whole.compute(), (parts[0]).compute(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_float64_survives_a_half_precision_module():
    assert Moments(4).half().outer.dtype == torch.float64


def test_statistics_need_the_right_shape_and_two_samples():
    metric = Moments(4)
    with pytest.raises(ValueError, match=r"\(B, 4\), got \(2, 5\)"):
        metric.update(torch.zeros(2, 5))
    metric.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        metric.compute()


def test_agrees_with_torch_fidelity_and_torchmetrics():
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    mu1, mu2 = torch.zeros(16), torch.linspace(0, 1, 16)
    sigma1, sigma2 = covariance(16, 80, seed=1), covariance(16, 80, seed=2)
    ours = frechet_distance(mu1, sigma1, mu2, sigma2)
    first, second = ({"mu": m.double().numpy(), "sigma": s.numpy()} for m, s in ((mu1, sigma1), (mu2, sigma2)))
    theirs = fid_statistics_to_metric(first, second, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours == pytest.approx(float(_compute_fid(mu1.double(), sigma1, mu2.double(), sigma2)), rel=1e-9)


@pytest.mark.slow
def test_inception_size_takes_seconds():
    sigma = covariance(2048, 4096, seed=0)
    mu = torch.zeros(2048, dtype=torch.float64)
    assert math.isclose(frechet_distance(mu, sigma, mu, 4 * sigma), float(sigma.trace()), rel_tol=1e-9)


def extractor(name="means", num_features=3, weights_sha256=None):
    return FeatureExtractor(nn.Identity(), name, num_features, weights_sha256)


class Spatial(FeatureExtractor):
    def __init__(self, spatial):
        super().__init__(nn.Identity(), "means", 3)
        self.spatial = spatial

    @property
    def sizes(self):
        return {"features": 3, "spatial": self.spatial}


def test_save_and_load(tmp_path):
    saved = Statistics(torch.arange(3.0).double(), torch.eye(3).double(), 10, "means", "ab")
    saved.save(tmp_path / "new/reference.npz")
    loaded = Statistics.load(tmp_path / "new/reference.npz", extractor(weights_sha256="ab"))
    assert (loaded.n, loaded.extractor, loaded.weights_sha256) == (10, "means", "ab")
    assert torch.equal(loaded.mu, saved.mu)
    assert torch.equal(loaded.sigma, saved.sigma)
    assert loaded.fingerprint == saved.fingerprint
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["reference.npz"]


def test_files_of_others(tmp_path):
    mu, sigma = np.arange(3.0), np.eye(3)
    np.savez(tmp_path / "jit.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma, arr_0=np.zeros((1, 2, 2, 3)))
    for name in ("jit.npz", "adm.npz"):
        loaded = Statistics.load(tmp_path / name, extractor())
        assert loaded.distance(Statistics(torch.zeros(3), 4 * torch.eye(3))) == pytest.approx(5 + 3)


def test_wrong_files(tmp_path):
    with pytest.raises(ValueError, match="no statistics at"):
        Statistics.load(tmp_path / "missing.npz")
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((1, 2, 2, 3)))
    with pytest.raises(ValueError, match=r"holds \['arr_0'\] but no \['mu', 'sigma'\]"):
        Statistics.load(tmp_path / "images.npz")
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match=r"mu is \(3,\) and sigma is \(4, 4\), not \(D,\) and \(D, D\)"):
        Statistics.load(tmp_path / "shape.npz")
    Statistics(torch.zeros(3), torch.eye(3), 10, "means", "ab").save(tmp_path / "ours.npz")
    with pytest.raises(ValueError, match="3 features but means makes 4"):
        Statistics.load(tmp_path / "ours.npz", extractor(num_features=4))
    with pytest.raises(ValueError, match="made by means, not by other"):
        Statistics.load(tmp_path / "ours.npz", extractor("other"))
    with pytest.raises(ValueError, match="other weights of means"):
        Statistics.load(tmp_path / "ours.npz", extractor(weights_sha256="cd"))
    np.savez(tmp_path / "half.npz", mu=np.zeros(3), sigma=np.eye(3), mu_s=np.zeros(2))
    with pytest.raises(ValueError, match="sigma_s is None"):
        Statistics.load(tmp_path / "half.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match=r"text\.npz cannot be read as an npz"):
        Statistics.load(tmp_path / "text.npz")


def test_damaged_numbers_are_told_before_they_are_compared(tmp_path):
    path = tmp_path / "damaged.npz"
    np.savez(path, mu=np.array([1.123, 2.0, 3.0]), sigma=np.eye(3))
    whole = path.read_bytes()
    assert whole.count(np.float64(1.123).tobytes()) == 1
    path.write_bytes(whole.replace(np.float64(1.123).tobytes(), np.float64(1.124).tobytes()))
    with pytest.raises(ValueError, match=r"damaged\.npz are damaged \(Bad CRC-32.*make the file again"):
        Statistics.load(path)
    np.savez(path, mu=np.array([np.nan, 2.0, 3.0]), sigma=np.eye(3))
    with pytest.raises(ValueError, match="mu or sigma holds values that are not finite"):
        Statistics.load(path)


def test_the_hash_covers_whatever_is_compared(tmp_path):
    mu, sigma, features = torch.arange(3.0).double(), torch.eye(3).double(), torch.rand(6, 3)
    spatial = {"mu_s": torch.zeros(2).double(), "sigma_s": torch.eye(2).double()}
    every = [
        Statistics(mu, sigma), Statistics(mu, sigma, **spatial), Statistics(mu, sigma, features=features),
        Statistics(mu, sigma, features=features[:5]), Statistics(mu, sigma, features=features + 1),
        Statistics(mu, sigma, mu_s=spatial["mu_s"] + 1, sigma_s=spatial["sigma_s"]), Statistics(mu, 2 * sigma),
    ]  # fmt: skip
    assert len({statistics.fingerprint for statistics in every}) == len(every)
    assert every[0].fingerprint == sha256(mu.numpy().tobytes() + sigma.numpy().tobytes()).hexdigest()[:16]  # as ever
    assert Statistics(mu, sigma, 9, "means", features=features).fingerprint == every[2].fingerprint


def test_statistics_that_are_none_are_refused(tmp_path):
    mu, sigma, features = np.zeros(3), np.eye(3), np.zeros((4, 3))
    lower, bad = np.tril(np.ones((3, 3))), np.full((4, 3), np.nan)
    for arrays, sentence in (
        ({"mu": mu, "sigma": lower}, "sigma is not symmetric, so no covariance"),
        ({"mu": mu, "sigma": sigma * np.inf}, "mu or sigma holds values that are not finite"),
        ({"mu": mu, "sigma": sigma, "features": features + bad}, r"features is \(4, 3\), not finite numbers \(K, 3\)"),
        ({"mu": mu, "sigma": sigma, "features": features.T}, r"features is \(3, 4\), not finite numbers \(K, 3\)"),
        ({"mu": mu, "sigma": sigma, "n": "many"}, "n is no whole number"),
        ({"mu": mu, "sigma": sigma, "pixels": 64}, "pixels is no whole number for each side"),
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(ValueError, match=sentence):
            Statistics.load(tmp_path / "x.npz")


def test_spatial_part_and_features_are_kept(tmp_path):
    spatial = torch.arange(2.0).double(), torch.eye(2).double()
    saved = Statistics(torch.zeros(3).double(), torch.eye(3).double(), 4, "means", None, *spatial, torch.rand(4, 3))
    saved.save(tmp_path / "reference.npz")
    loaded = Statistics.load(tmp_path / "reference.npz", Spatial(2))
    assert torch.equal(loaded.features, saved.features)
    other = Statistics(saved.mu, saved.sigma, mu_s=torch.zeros(2), sigma_s=4 * torch.eye(2))
    assert loaded.spatial_distance(other) == pytest.approx(1 + 2)
    with pytest.raises(ValueError, match="2 spatial features but means makes 5"):
        Statistics.load(tmp_path / "reference.npz", Spatial(5))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="could not write"):
        Statistics(torch.zeros(3), torch.eye(3)).save(tmp_path / "file" / "reference.npz")
