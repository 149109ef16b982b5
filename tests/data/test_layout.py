"""Folders as people have them: which part is for training, which names are classes, what is passed over."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from pixelgen.data import ImageFolderData
from pixelgen.data.folder import EXTENSIONS, class_folders
from pixelgen.data.layout import find_layout, list_files
from pixelgen.data.pack import pack
from pixelgen.data.tars import expand_shards
from pixelgen.evaluation.images import open_images
from shard_files import write_tar


def fill(root, *paths):
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(EXTENSIONS):
            Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(root / path)
        else:
            (root / path).write_text("?")
    return root


CASES = {
    "classes": (["cat/0.png", "dog/0.png"], ".", None, ["cat", "dog"]),
    "flat": (["0.png", "1.png", "notes/a.txt"], ".", None, None),
    "imagenet": (["train/cat/0.png", "val/cat/0.png"], "train", "val", ["cat"]),
    "capitals": (["Train/cat/0.png", "Validation/cat/0.png"], "Train", "Validation", ["cat"]),
    "valid": (["train/cat/0.png", "valid/cat/0.png", "test/cat/0.png"], "train", "valid", ["cat"]),
    "test alone": (["training_set/cat/0.png", "test_set/cat/0.png"], "training_set", "test_set", ["cat"]),
    "coco": (["train2017/0.png", "val2017/0.png", "annotations/a.json"], "train2017", "val2017", None),
    "kaggle": (
        ["ILSVRC/Data/CLS-LOC/train/n1/0.png", "ILSVRC/Data/CLS-LOC/val/0.png", "ILSVRC/Annotations/CLS-LOC/a.xml"],
        "ILSVRC/Data/CLS-LOC/train",
        "ILSVRC/Data/CLS-LOC/val",
        ["n1"],
    ),
    "too high": (["flowers/rose/0.png", "flowers/tulip/0.png"], "flowers", None, ["rose", "tulip"]),
    "twice": (["train/train/cat/0.png", "train/train/dog/0.png"], "train/train", None, ["cat", "dog"]),
    "only images": (["images/0.png"], "images", None, None),
    "one class": (["cat/0.png"], ".", None, ["cat"]),
    "ffhq": (["images1024x1024/00000/00000.png", "images1024x1024/01000/01001.png"], "images1024x1024", None, None),
    "edm": (["00000/img00000000.png", "00001/img00001000.png"], ".", None, None),
    "img2dataset": (["00000/000000012.jpg", "00001/000010003.jpg"], ".", None, None),
    "numbered classes": (["0001/0.png", "0002/0.png"], ".", None, ["0001", "0002"]),
    "years": (["2020/0.png", "2021/0.png"], ".", None, ["2020", "2021"]),
    "a class called train": (["train/0.png", "plane/0.png"], ".", None, ["plane", "train"]),
    "leftovers": (["cat/0.png", "@eaDir/a/0.png", "__MACOSX/cat/0.png", ".thumbs/0.png"], ".", None, ["cat"]),
}


@pytest.mark.parametrize("case", CASES)
def test_layouts_are_the_same_for_every_command(tmp_path, case):
    paths, train, val, classes = CASES[case]
    root = fill(tmp_path / "in", *paths)
    layout = find_layout(root, EXTENSIONS)
    assert layout.train == root / train
    assert layout.val == (None if val is None else root / val)
    assert class_folders(layout.train) == classes
    data = ImageFolderData(root, image_size=8)
    assert data.class_names == classes
    count = len(list_files(root / train, EXTENSIONS).files)
    assert len(data.train_dataset()) == len(open_images(root)) == count
    assert pack(root, tmp_path / "out").images == count
    assert (tmp_path / "out/classes.txt").exists() == (classes is not None)


def test_several_folders_for_training_are_refused(tmp_path):
    fill(tmp_path, "train2014/0.png", "train2017/0.png")
    with pytest.raises(ValueError, match="several folders for training, train2014 and train2017: give the one to use"):
        ImageFolderData(tmp_path)


def test_what_is_left_out_beside_the_parts_is_said(tmp_path):
    fill(tmp_path, "train/cat/0.png", "val/cat/0.png", "test/0.png", "extra/cat/0.png")
    data = ImageFolderData(tmp_path, image_size=8)
    with pytest.warns(UserWarning, match=r"left out of .*: extra, test; only train is used"):
        data.setup()
    assert data.summary == f"1 class (cat), 1 images in {tmp_path}/train; validation: 1 images in {tmp_path}/val"


def test_labels_of_edm(tmp_path):
    fill(tmp_path, "00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png")
    labels = [["00000/img00000000.png", 2], ["00000/img00000001.png", 0], ["00001/img00001000.png", 1]]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    data = ImageFolderData(tmp_path, image_size=8)
    assert data.class_names == ["0", "1", "2"]
    assert [(item["label"], int(item["image"][0, 0, 0])) for item in data.train_dataset()] == [(0, 1), (1, 2), (2, 0)]
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    with pytest.warns(UserWarning, match="share out one set of files"):
        assert ImageFolderData(tmp_path).class_names is None


def test_a_validation_set_that_cannot_be_labelled_is_a_warning(tmp_path):
    fill(tmp_path, "train/cat/0.png", "val/0.png", "val/1.png")
    data = ImageFolderData(tmp_path, image_size=8)
    with pytest.warns(UserWarning, match="no validation: 2 of 2 images in .*val are in no folder of a class of train"):
        data.setup()
    assert data.val_dataset() is None
    assert data.val_dataloader() == []


def test_links_are_followed_and_circles_are_not(tmp_path):
    fill(tmp_path, "store/0.png", "in/cat/1.png", "in/dog/2.png")
    for link, target in {"cat/more": "../../store", "cat/again": "..", "dog/self": "self", "dog/3.png": "none"}.items():
        os.symlink(target, tmp_path / "in" / link)
    listing = list_files(tmp_path / "in", EXTENSIONS)
    assert [os.path.relpath(file, tmp_path / "in") for file in listing.files] == [
        "cat/1.png",
        "cat/more/0.png",
        "dog/2.png",
    ]
    said = listing.left_out
    assert "1 × link that leads nowhere (dog/3.png)" in said
    assert "1 × link to a folder that is read already (cat/again)" in said


def test_what_is_passed_over_is_counted_and_named_once(tmp_path):
    fill(tmp_path, "0.png", "a.heic", "b.HEIC", "movie.mp4", "notes.txt", "Thumbs.db", "nameless")
    os.mkfifo(tmp_path / "pipe.png")
    data = ImageFolderData(tmp_path, image_size=8)
    with pytest.warns(UserWarning, match="passed over") as said:
        data.setup()
    data.setup()
    assert [str(warning.message) for warning in said] == [
        f"passed over in {tmp_path}: 2 × .heic (a.heic), 1 × .mp4 (movie.mp4), 1 × file without an extension "
        "(nameless), 1 × no regular file (pipe.png)"
    ]


def test_a_folder_without_any_image_says_what_it_holds(tmp_path):
    fill(tmp_path, "cat/0.heic")
    with pytest.raises(ValueError, match=r"no images in .*: put \.jpg.*1 × \.heic \(cat/0\.heic\)"):
        ImageFolderData(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path, "cat/0.png", "dog/0.png")
    scan = os.scandir

    def closed(path):
        if "dog" in str(path):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ValueError, match=r"the folder .*dog cannot be read \(Permission denied\): allow it"):
        list_files(tmp_path, EXTENSIONS)


def test_shards_of_a_folder_are_found_at_any_depth_and_its_training_part_alone(tmp_path):
    for path in ("train/b/1.tar", "train/a.tar.gz", "train/0.TGZ", "val/0.tar", "train/c.zip", "train/._a.tar"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        write_tar(tmp_path / path, [])
    with pytest.warns(UserWarning, match="passed over") as said:
        found = expand_shards(str(tmp_path))
    assert [os.path.relpath(path, tmp_path / "train") for path in found] == ["0.TGZ", "a.tar.gz", "b/1.tar"]
    texts = " ".join(str(warning.message) for warning in said)
    assert "1 × .zip (c.zip)" in texts
    assert "val only if they are given themselves" in texts
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no shards in .*none: give a folder with \.tar"):
        expand_shards(str(tmp_path / "none"))
