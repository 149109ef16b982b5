from urllib.error import URLError

import pytest
import torch

from pixelgen.encoders.inception import Inception
from pixelgen.files import sha256
from random_inception import write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of the right shapes."""
    return write_weights(tmp_path_factory.mktemp("inception") / "random.pth")


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


def test_spatial_features_and_logits_come_from_the_same_pass(weights):
    extractor = Inception(weights)
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []
    extractor.network.Mixed_6d.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    outputs = extractor.outputs(images, ("features", "spatial", "logits"))
    assert {name: value.shape[1] for name, value in outputs.items()} == extractor.sizes
    (x,) = seen
    branch, fc = extractor.network.Mixed_6d.branch1x1, extractor.network.fc
    scale = branch.bn.weight / (branch.bn.running_var + branch.bn.eps).sqrt()
    value = torch.einsum("oc,bchw->bhwo", branch.conv.weight[:7, :, 0, 0] * scale[:7, None], x)
    value = (value + (branch.bn.bias - branch.bn.running_mean * scale)[:7]).relu()
    assert value.shape == (1, 17, 17, 7)
    torch.testing.assert_close(outputs["spatial"], value.flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["logits"], outputs["features"] @ fc.weight.T)
    assert set(extractor.outputs(images)) == {"features"}


def test_the_file_is_read_without_pickle_and_once_beside_the_hash(weights, monkeypatch):
    opened = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda file, *args, **options: opened.append((file, options)) or load(file, *args, **options)
    )
    Inception(weights)
    assert [options["weights_only"] for file, options in opened if file == weights] == [True]


def test_only_inception_makes_a_fid(weights):
    extractor = Inception(weights)
    assert [extractor.metric(name) for name in ("frechet", "spatial_frechet", "kid")] == ["fid", "sfid", "kid"]


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
