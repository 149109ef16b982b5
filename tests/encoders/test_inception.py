from urllib.error import URLError

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pixelgen.encoders.frozen import sha256
from pixelgen.encoders.inception import Inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of the right shapes."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    built = {}
    original = FeatureExtractorInceptionV3.load_state_dict
    with pytest.MonkeyPatch.context() as patch:
        # the class insists on loading weights: let it pass, to have something to save
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: built.update(net=self))
        torch.manual_seed(0)
        FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="x")
        assert original is not FeatureExtractorInceptionV3.load_state_dict
    torch.save(built["net"].state_dict(), path)
    return path


def test_features(weights):
    extractor = Inception(weights, sha256=sha256(weights))
    assert (extractor.name, extractor.num_features) == ("inception-v3-compat", 2048)
    assert extractor.weights_sha256 == sha256(weights)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = extractor(images)
    assert features.shape == (2, 2048)
    assert features.dtype == torch.float32
    torch.testing.assert_close(extractor(images[1:]), features[1:], rtol=1e-4, atol=1e-5)
    assert not list(extractor.parameters())


def test_wrong_hash_or_file(weights, tmp_path):
    with pytest.raises(ValueError, match="SHA-256"):
        Inception(weights, sha256="0" * 64)
    with pytest.raises(ValueError, match="Inception-v3"):
        Inception(tmp_path / "missing.pth")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold torch-fidelity's Inception-v3 weights"):
        Inception(tmp_path / "other.pth")


def test_no_network_says_what_to_download(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"fetch https://.*\.pth and put it at .*, or pass its path as `weights`"):
        Inception()


def test_a_damaged_download_is_refused(monkeypatch, tmp_path, weights):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "weights-inception-2015-12-05-6726825d.pth").write_bytes(weights.read_bytes())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="damaged"):
        Inception()
