"""Networks that transformers loads, from a folder or the hub, whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from pixelgen.encoders.frozen import sha256


def load_pretrained(kind: str, source: str, revision: str | None = None) -> tuple[Any, str]:
    """A network of a transformers class with its weights, float32, and what names the weights.

    The hub is asked only for what its cache on this machine lacks.

    Args:
        kind: name of the class in transformers, such as "CLIPModel".
        source: a folder, or the name of a repository on the hub.
        revision: branch, tag or commit on the hub.

    Returns:
        The network, and the commit on the hub, or the SHA-256 of the weights in the folder.

    Raises:
        ValueError: if transformers, the files or the network are missing, or weights do not fit.
    """
    network = load_network(kind, source, revision)
    return network, weights_name(network.config, source, revision)


def weights_name(config: Any, source: str, revision: str | None = None) -> str:
    """What names the weights of a network with this config: the commit on the hub, or the SHA-256 in the folder."""
    if Path(source).is_dir():
        return f"sha256:{_weights_sha256(Path(source))}"
    return str(getattr(config, "_commit_hash", None) or revision)


def load_network(
    kind: str,
    source: str,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    unused: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A network of a transformers class with its weights; errors as in `load_pretrained`.

    Args:
        kind: name of the class in transformers.
        source: a folder, or the name of a repository on the hub.
        revision: branch, tag or commit on the hub.
        dtype: of weights and buffers.
        unused: beginnings of names of weights that may be missing.
        options: of `from_pretrained`.
    """
    network, report = load_from(kind, source, revision, output_loading_info=True, **options)
    wrong = [key for key in report["missing_keys"] if not key.startswith(unused)]
    wrong += [key for key, *_ in report["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{source} lacks {len(wrong)} weights of {kind} ({sorted(wrong)[0]}, …): give another source")
    return network.to(dtype)  # with its buffers: the published text model knows Qwen3's rotary frequencies in bf16


def load_from(kind: str, source: str, revision: str | None = None, **options: Any) -> Any:
    """Call `from_pretrained` of a transformers class, first without the network; errors as in `load_pretrained`."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{kind} needs transformers: pip install 'transformers>=4.51' (the extra `text` of this package)"
        ) from error
    load, folder = getattr(transformers, kind).from_pretrained, Path(source).is_dir()
    try:
        try:
            return load(source, revision=revision or "main", local_files_only=True, **options)
        except OSError:
            if folder:
                raise
            return load(source, revision=revision or "main", **options)
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = (
            "give a folder with its files"
            if folder
            else "download it on a machine with network and give the folder, or set HF_HOME to a cache that holds it"
        )
        raise ValueError(f"cannot load {kind} from {source}: {advice} ({first})") from error


def _weights_sha256(folder: Path) -> str:
    """SHA-256 of a folder's weights; of the hashes of the files where there are several."""
    hashes = [sha256(file) for pattern in ("*.safetensors", "*.bin") for file in sorted(folder.glob(pattern))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
