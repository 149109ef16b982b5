"""Checkpoints that other tools wrapped are read, and those that are none, or name what they must not, are refused."""

import pytest
import torch

from pixelgen.runs.checkpoints import find_weights, read_contents

X = torch.ones(2)


@pytest.mark.parametrize("prefix", ["module.denoiser.", "denoiser._orig_mod.", "_orig_mod.denoiser.", "denoiser."])
def test_prefixes_of_wrappers_are_left_out(tmp_path, prefix):
    averages = {"0.9": {f"{'_orig_mod.' if 'orig' in prefix else ''}a.weight": X}}
    torch.save({"state_dict": {f"{prefix}a.weight": X}, "callbacks": {"EMA": {"averages": averages}}}, tmp_path / "c")
    contents = read_contents(tmp_path / "c")
    assert [*contents.raw] == [*contents.averages["0.9"]] == ["a.weight"]


def test_prefixes_of_wrappers_in_a_published_checkpoint(tmp_path):
    torch.save({"model": {"module.net._orig_mod.a": X}, "model_ema1": {"module.net._orig_mod.a": X}}, tmp_path / "c")
    contents = read_contents(tmp_path / "c")
    assert [*contents.raw] == [*contents.averages["ema1"]] == ["a"]


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "", ".hidden", 3])
def test_a_name_of_an_average_cannot_lead_elsewhere(tmp_path, name):
    torch.save({"state_dict": {"denoiser.a": X}, "callbacks": {"EMA": {"averages": {name: {"a": X}}}}}, tmp_path / "c")
    with pytest.raises(ValueError, match="holds an EMA called"):
        read_contents(tmp_path / "c")


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"state_dict": 5},
        {"state_dict": {"denoiser.a": 5}},
        {"state_dict": {5: X}},
        {"state_dict": {"denoiser.a": X}, "callbacks": [1]},
        {"state_dict": {"denoiser.a": X}, "global_step": "../x"},
        {"state_dict": {"denoiser.a": X}, "callbacks": {"EMA": {"averages": {"0.9": X}}}},
        {"model": 3},
        X,
    ],
)
def test_what_is_no_checkpoint_is_said_in_a_sentence(tmp_path, content):
    torch.save(content, tmp_path / "c")
    with pytest.raises(ValueError, match=r"c is (not a checkpoint of pixelgen|damaged, or made by something else)"):
        read_contents(tmp_path / "c")


@pytest.mark.parametrize("source", ["", " ", None, ["runs/demo"], 3])
def test_what_is_no_path_is_said(source):
    with pytest.raises(ValueError, match="is no path: give a run folder, a checkpoint file, or an export"):
        find_weights(source)


def test_a_config_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"tiny\.yaml is a config: give the folder of a run"):
        read_contents(tmp_path / "tiny.yaml")
