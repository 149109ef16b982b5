import numpy as np
import pytest
import torch
from torch import nn

from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.statistics import Statistics


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
