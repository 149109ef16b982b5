"""Checkpoints in shards hold a pickle each: nothing in them is executed, on loading nor before resuming."""

import io
import os
import pickle
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp

from pixelgen.runs.checkpoints import read_contents
from pixelgen.runs.shards import ShardReader, check_shards, read_shards


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def shards(tmp_path):
    """Weights of a denoiser, and an optimizer with a number that is no tensor."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    weights = {"denoiser.a": torch.arange(6.0).view(2, 3), "denoiser.b": torch.ones(2, dtype=torch.bfloat16)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"state_dict": weights, "optimizer": {"lr": 0.1}}, checkpoint_id=path, no_dist=True)
    torch.save({"epoch": 1, "global_step": 3}, path / "meta.pt")
    return path


def test_what_torch_wrote_is_read(shards):
    check_shards(shards)
    contents = read_contents(shards)
    assert contents.step == 3
    assert torch.equal(contents.raw["a"], torch.arange(6.0).view(2, 3))
    assert contents.raw["b"].dtype == torch.bfloat16


@pytest.mark.parametrize("read", [read_contents, read_shards, check_shards])
def test_hostile_metadata_is_refused(shards, tmp_path, read):
    (shards / ".metadata").write_bytes(pickle.dumps(Hostile(str(tmp_path / "made"))))
    with pytest.raises(ValueError, match=r"Python objects that cannot be loaded safely \((posix|nt)\.mkdir, …\)"):
        read(shards)
    assert not (tmp_path / "made").exists()


def test_a_hostile_number_of_the_optimizer_is_refused_before_torch_reads_it(shards, tmp_path):
    metadata = ShardReader(shards).read_metadata()
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == "optimizer.lr")
    torch.save(Hostile(str(tmp_path / "made")), content := io.BytesIO())
    (shards / info.relative_path).write_bytes(content.getvalue())
    info.offset, info.length = 0, len(content.getvalue())
    (shards / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="Python objects that cannot be loaded safely"):
        check_shards(shards)
    assert not (tmp_path / "made").exists()


def test_damaged_metadata_and_shards_elsewhere_are_refused(shards):
    metadata = ShardReader(shards).read_metadata()
    next(iter(metadata.storage_data.values())).relative_path = "/etc/passwd"
    (shards / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="its shards are said to lie elsewhere, in /etc/passwd"):
        read_contents(shards)
    for content in (b"", b"junk", (shards / ".metadata").read_bytes()[:-20]):
        (shards / ".metadata").write_bytes(content)
        with pytest.raises(ValueError, match=r"last\.ckpt is not a readable .*\.metadata is damaged"):
            read_contents(shards)
