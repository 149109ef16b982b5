"""Files are told as what they are, written whole, and never through a link."""

import os
import pickle

import pytest
import torch

from pixelgen.callbacks.checkpoint_io import DirectIO
from pixelgen.config import read_yaml
from pixelgen.data.decoding import Unusable, image_of
from pixelgen.data.folder import load_rgb
from pixelgen.encoders.hub import load_timm, read_weights
from pixelgen.evaluation.images import arrays, open_images
from pixelgen.files import UNFINISHED, append_line, atomic, load_tensors, what_is
from pixelgen.runs.run import Run

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 2708345\n"
PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


class Hostile:
    """Would make a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (POINTER, "a Git LFS pointer and not the file itself: run `git lfs pull`"),
        (PAGE, "a web page: download the file itself"),
        (b"PAR1\x15", "a Parquet file"),
        (b"", "empty"),
        (b"model: 3\n", "a text that begins with 'model: 3'"),
        (b"%!PS-Adobe", "a PostScript program"),
        (b"PK\x03\x04rest", "a zip archive"),
    ],
)
def test_what_a_file_is(content, kind, tmp_path):
    assert what_is(content).startswith(f": it is {kind}")
    (tmp_path / "f").write_bytes(content)
    assert what_is(tmp_path / "f") == what_is(content)


def test_nothing_is_said_of_what_was_wanted_or_is_unknown(tmp_path):
    assert what_is(b"\x89PNG\r\n") == what_is(b"PK\x03\x04", "zip") == what_is(b"\x00\x01") == what_is(tmp_path) == ""


@pytest.mark.parametrize(("content", "kind"), [(POINTER, "a Git LFS pointer"), (PAGE, "a web page")])
def test_pointers_and_pages_are_named_wherever_a_file_is_read(content, kind, tmp_path):
    for name, read in {
        "m.ckpt": Run,
        "model.safetensors": Run,
        "a.npz": open_images,
        "b.npz": arrays,
        "a.png": load_rgb,
        "vgg.pth": lambda path: read_weights(path, "VGG-16"),
        "images": lambda path: open_images(path.parent / "folder"),
        "config.yaml": read_yaml,
        "timm.safetensors": lambda path: load_timm("resnet18", path),
        "b.png": lambda path: image_of({"png": path.read_bytes()}),
    }.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / "0.png").write_bytes(content)
        with pytest.raises((ValueError, Unusable), match=f"it is {kind}") as refused:
            read(tmp_path / name)
        assert "weights_only" not in str(refused.value)
        assert "pickle" not in str(refused.value)


def test_weights_execute_nothing_and_the_advice_is_not_to_load_them_unsafely(tmp_path):
    made = tmp_path / "made"
    torch.save({"a": Hostile(str(made))}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Hostile(str(made))))
    torch.save({"a": torch.zeros(9)}, tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    for name, problem in (("a", r"loaded safely \(posix.mkdir, …\)"), ("b", "no file of torch"), ("c", "cut off")):
        with pytest.raises(ValueError, match=problem) as refused:
            load_tensors(tmp_path / f"{name}.pt")
        assert "weights_only" not in str(refused.value)
    assert not made.exists()


@pytest.mark.parametrize("unique", [True, False])
def test_temporary_names_never_follow_links(tmp_path, unique):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / UNFINISHED.format("a.txt")).symlink_to(victim)
    with atomic(tmp_path / "a.txt", unique=unique) as temporary:
        temporary.write_text("new")
    (tmp_path / "c.ckpt").symlink_to(victim)
    DirectIO().save_checkpoint({"a": 1}, tmp_path / "c.ckpt")
    (tmp_path / "log.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match=r"log\.jsonl"):
        append_line(tmp_path / "log.jsonl", "line\n")
    append_line(tmp_path / "other.jsonl", "1\n")
    append_line(tmp_path / "other.jsonl", "2\n")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert (tmp_path / "other.jsonl").read_text() == "1\n2\n"
    assert victim.read_text() == "mine"
