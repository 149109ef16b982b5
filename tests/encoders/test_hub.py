import hashlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixelgen.encoders import hub
from pixelgen.encoders.hub import download, load_from, load_network, weights_name
from pixelgen.files import sha256
from tiny_transformers import tiny_clip


def test_folder_is_named_by_the_hash_of_its_weights(tmp_path):
    network = load_network("CLIPModel", str(tiny_clip()))
    assert weights_name(network.config, tiny_clip()) == f"sha256:{sha256(tiny_clip() / 'model.safetensors')}"
    expected = load_file(tiny_clip() / "model.safetensors")
    found = network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_weights_are_widened(tmp_path):
    folder = shutil.copytree(tiny_clip(), tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    network = load_network("CLIPModel", folder)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_half_a_network_is_refused(tmp_path):
    folder = shutil.copytree(tiny_clip(), tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of CLIPModel \(text_projection.weight, "):
        load_network("CLIPModel", str(folder))


def test_what_is_missing_is_said_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"cannot load CLIPModel from .*: give a folder with its files") as caught:
        load_network("CLIPModel", str(tmp_path))
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match="CLIPModel needs transformers: pip install"):
        load_from("CLIPModel", str(tiny_clip()))


def test_hub_is_asked_only_for_what_the_cache_lacks(monkeypatch):
    calls = []

    class Stub:
        @staticmethod
        def from_pretrained(source, revision, local_files_only=False, **options):
            calls.append((source, revision, local_files_only))
            if local_files_only and cached:
                return "network"
            raise OSError("no connection\nat all")

    monkeypatch.setattr("transformers.CLIPModel", Stub)
    cached = True
    assert load_from("CLIPModel", "openai/clip", "abc") == "network"
    assert calls == [("openai/clip", "abc", True)]
    cached = False
    with pytest.raises(ValueError, match=r"cannot load CLIPModel from openai/clip: download .* \(no connection\)"):
        load_from("CLIPModel", "openai/clip")
    assert calls[1:] == [("openai/clip", "main", True), ("openai/clip", "main", False)]


def test_commit_of_the_hub_is_recorded():
    network = load_network("CLIPModel", str(tiny_clip()))
    network.config._commit_hash = "0123abcd"
    assert weights_name(network.config, "openai/clip") == "0123abcd"
    assert weights_name(None, "openai/clip", "v2") == "v2"


def test_weights_that_are_there_are_read_without_writing(tmp_path, monkeypatch):
    """The folder may belong to somebody else; as root everything can be written, so the lock stands for it."""
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(hub, "FileLock", None)
    content = b"weights"
    path = tmp_path / "checkpoints" / f"vgg-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    assert download(f"https://somewhere/{path.name}", "VGG-16") == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]
