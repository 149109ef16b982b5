"""Small random networks of the classes that transformers loads, in folders as the hub has them."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from pixelgen.evaluation.geneval.prompts import COCO


@cache
def tiny_mask2former(names=COCO) -> Path:
    """Mask2Former with Swin, 100 thousand weights, for some classes."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=6,
        id2label=dict(enumerate(names)),
    )
    return _save(Mask2FormerForUniversalSegmentation, config)


@cache
def tiny_clip() -> Path:
    """CLIP whose tokens are letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz-"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    last = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": len(tokens), "max_position_embeddings": 77, **last},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        projection_dim=8,
    )
    folder = _save(CLIPModel, config)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


def _save(kind, config) -> Path:
    folder = Path(mkdtemp(prefix="tiny-"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    return folder


@cache
def tiny_qwen3() -> Path:
    """Qwen3, 16 wide, with a tokenizer of its kind whose tokens are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    words = ["<unk>", "<pad>", "a", "photo", "of", "red", "blue", "green", "circle", "square", "and"]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = _save(Qwen3Model, Qwen3Config(**sizes, num_key_value_heads=1, head_dim=8, vocab_size=len(words)))
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<pad>", padding_side="left")
    fast.save_pretrained(folder)
    return folder


@cache
def tiny_t5() -> Path:
    """T5, encoder and decoder, 8 wide, with the tokenizer of `tiny_qwen3`."""
    from shutil import copyfile

    from transformers import T5Config, T5Model

    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 11}
    folder = _save(T5Model, T5Config(**sizes, decoder_start_token_id=1))
    for file in tiny_qwen3().glob("token*"):
        copyfile(file, folder / file.name)
    return folder
