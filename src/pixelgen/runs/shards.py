"""Checkpoints in shards: a folder that holds what each process wrote."""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from pixelgen.files import load_tensors

OF_SHARDS = {  # what the metadata of shards is made of, by module
    "torch": ["Size"],
    "torch.serialization": ["_get_layout"],
    "torch.distributed.checkpoint.metadata": [
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties"),
        *("ChunkStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ],
    "torch.distributed.checkpoint.filesystem": ["_StorageInfo"],
    "collections": ["OrderedDict"],
    "pathlib": ["Path", "PosixPath", "PurePosixPath"],
}


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is a folder with the shards of each process."""
    return (path / "meta.pt").is_file()


class _Unpickler(pickle.Unpickler):
    """Reads what torch writes about shards: sizes, types and places of tensors; any other object is refused."""

    def find_class(self, module: str, name: str) -> Any:
        plain_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout)
        if plain_type or name in OF_SHARDS.get(module, ()):
            return super().find_class(module, name)
        raise ValueError(f"it holds Python objects that cannot be loaded safely ({module}.{name}, …)")


class ShardReader(FileSystemReader):
    """Reads the shards of a checkpoint as torch does, but executes nothing in them and reads no file beside them."""

    def read_metadata(self, *args: Any, **options: Any) -> Metadata:
        """What is stored, and where."""
        try:
            with (Path(self.path) / ".metadata").open("rb") as file:
                metadata: Metadata = _Unpickler(file).load()
            places = [info.relative_path for info in metadata.storage_data.values()]
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"its file .metadata is damaged ({type(error).__name__}: {error})") from error
        if elsewhere := [place for place in places if Path(place).name != place]:
            raise ValueError(f"its shards are said to lie elsewhere, in {elsewhere[0]}")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata


def check_shards(path: Path) -> None:
    """Refuse a checkpoint in shards that would execute something when torch reads it, which resuming does.

    Raises:
        ValueError: naming the Python object.
    """
    metadata = ShardReader(path).read_metadata()
    for index, info in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata.get(index.fqn), BytesStorageMetadata):
            with (path / info.relative_path).open("rb") as file:
                file.seek(info.offset)
                load_tensors(io.BytesIO(file.read(info.length)))


def read_shards(path: Path) -> dict[str, Any]:
    """A checkpoint in shards, put together in one process, without the states of the optimizer."""
    checkpoint: dict[str, Any] = load_tensors(path / "meta.pt")
    reader, prefix = ShardReader(path), "state_dict."
    stored = reader.read_metadata().state_dict_metadata
    weights: dict[str, Any] = {
        key: torch.empty(found.size, dtype=found.properties.dtype)
        for key, found in stored.items()
        if key.startswith(prefix) and isinstance(found, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is distributed here
        try:
            load(weights, storage_reader=reader, no_dist=True)
        except Exception as error:  # torch has many kinds for damaged shards
            raise ValueError(f"its shards are damaged ({type(error).__name__}: {error})") from error
    return checkpoint | {"state_dict": {key[len(prefix) :]: value for key, value in weights.items()}}
