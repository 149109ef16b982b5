"""Folders of images: layouts, modes of image files, flips, and what is said when something is wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from pixelgen.data import Captions
from pixelgen.data.folder import ImageFolderData, load_rgb


def save(path, color=(200, 30, 40), mode="RGB", size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


@pytest.fixture
def imagenet(tmp_path):
    """Two classes, training and validation, in several formats and nested folders."""
    save(tmp_path / "train" / "b_dog" / "1.JPEG", (0, 0, 255))
    save(tmp_path / "train" / "b_dog" / "deeper" / "2.png", (0, 0, 250))
    save(tmp_path / "train" / "a_cat" / "1.webp", (255, 0, 0))
    save(tmp_path / "train" / "a_cat" / "2.bmp", (250, 0, 0))
    save(tmp_path / "val" / "b_dog" / "1.jpeg", (0, 0, 240))
    (tmp_path / "train" / "b_dog" / "notes.txt").write_text("not an image")
    return tmp_path


def test_imagenet_layout(imagenet):
    data = ImageFolderData(imagenet, image_size=8, batch_size=2)
    data.setup()
    assert data.class_names == ["a_cat", "b_dog"]
    assert data.num_classes == 2
    train = list(data.train_dataset())
    assert [item["label"] for item in train] == [0, 0, 1, 1]
    assert [item["image"][:, 4, 4].tolist() for item in train][1::2] == [[250, 0, 0], [0, 0, 250]]
    assert train[0]["image"].shape == (3, 8, 8)
    assert train[0]["image"].dtype == torch.uint8
    assert [item["label"] for item in data.val_dataset()] == [1]
    assert next(iter(data.train_dataloader()))["label"].dtype == torch.int64


def test_class_folders_directly_below_the_root(imagenet):
    data = ImageFolderData(imagenet / "train", image_size=8)
    assert data.class_names == ["a_cat", "b_dog"]
    assert len(data.train_dataset()) == 4
    assert data.val_dataset() is None


@pytest.mark.parametrize("inner", [".", "train"])
def test_flat_folder_is_unlabelled(tmp_path, inner):
    for i in range(3):
        save(tmp_path / inner / f"{i}.png", (i, i, i))
    save(tmp_path / inner / "._0.png")  # what macOS leaves in archives
    data = ImageFolderData(tmp_path, image_size=8, batch_size=3)
    assert data.class_names is None
    assert data.num_classes is None
    assert set(next(iter(data.train_dataloader()))) == {"image"}
    assert [int(item["image"][0, 0, 0]) for item in data.train_dataset()] == [0, 1, 2]


def test_key_wraps_around_and_decides_the_flip(tmp_path):
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    picture[:, :4] = 255
    for i in range(2):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    dataset = ImageFolderData(tmp_path, image_size=8, flip=True, seed=3).train_dataset()
    flipped = [bool(dataset[key]["image"][0, 0, 7]) for key in range(400)]
    assert 0.4 < np.mean(flipped) < 0.6
    assert flipped[:50] != flipped[50:100]
    assert flipped == [bool(dataset[key]["image"][0, 0, 7]) for key in range(400)]
    straight = ImageFolderData(tmp_path, image_size=8).train_dataset()
    assert all(straight[key]["image"][0, 0, 0] == 255 for key in range(20))


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 90 * 256, (90, 90, 90)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, color, expected):
    save(tmp_path / "x.png", color, mode)
    image = load_rgb(tmp_path / "x.png")
    assert image.mode == "RGB"
    assert image.getpixel((3, 3)) == expected


def test_palette_with_transparency_and_cmyk(tmp_path):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    image = load_rgb(tmp_path / "p.png")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 1)) == (200, 100, 50)
    save(tmp_path / "c.jpg", (0, 255, 255, 0), "CMYK")
    red, green, blue = load_rgb(tmp_path / "c.jpg").getpixel((3, 3))
    assert red > 240
    assert max(green, blue) < 15


def test_missing_root(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist: set root"):
        ImageFolderData(tmp_path / "nowhere")


def test_no_images(tmp_path):
    with pytest.raises(ValueError, match=r"no images in .*: put \.jpg"):
        ImageFolderData(tmp_path)


def test_empty_class_folder(imagenet):
    (imagenet / "train" / "c_owl").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*c_owl has no images"):
        ImageFolderData(imagenet).setup()


def test_images_beside_class_folders(imagenet):
    save(imagenet / "train" / "stray.png")
    with pytest.raises(ValueError, match=r"both images \(stray\.png\) and folders \(a_cat\)"):
        ImageFolderData(imagenet)


@pytest.mark.parametrize("upright", [True, False])
def test_photos_are_turned_unless_that_is_switched_off(tmp_path, upright):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    stored = Image.new("RGB", (8, 8), "red")
    stored.paste("blue", (0, 4, 8, 8))
    stored.save(tmp_path / "0.png", exif=exif)
    pixels = ImageFolderData(tmp_path, image_size=8, upright=upright).train_dataset()[0]["image"]
    assert pixels[:, 0, 0].tolist() == ([0, 0, 255] if upright else [255, 0, 0])


def test_validation_images_of_other_classes_are_left_out(imagenet):
    save(imagenet / "val" / "z_emu" / "1.png")
    data = ImageFolderData(imagenet, image_size=8)
    with pytest.warns(
        UserWarning, match=r"1 of 2 images in .*val are in no folder of a class .* first is .*z_emu/1\.png"
    ):
        data.setup()
    assert [item["label"] for item in data.val_dataset()] == [1]


@pytest.fixture
def numbers(tmp_path):
    """Twenty grey images of two classes, and their damaged copies."""
    for name in ("whole", "damaged"):
        for i in range(20):
            save(tmp_path / name / "ab"[i // 10] / f"{i:02d}.png", (i, i, i), size=(9, 9))
    (tmp_path / "damaged/a/00.png").write_bytes(b"no image")
    path = tmp_path / "damaged/b/13.png"
    path.write_bytes(path.read_bytes()[:50])
    (tmp_path / "damaged/b/17.png").chmod(0)
    return tmp_path


def read(data, batches, skip=0):
    """Grey values and labels of so many batches of a loader; -1 for those of the damaged images."""
    loader, found = data.train_dataloader(), []
    while len(found) < batches:
        found += [batch["image"][:, 0, 0, 0].tolist() for batch in loader]
    return found[skip:batches]


def test_damaged_images_are_left_out_and_the_order_of_the_others_stays(numbers):
    whole, damaged = (ImageFolderData(numbers / name, image_size=8, batch_size=4) for name in ("whole", "damaged"))
    damaged.setup()
    with pytest.warns(UserWarning, match="skipped, corrupt image: .*others of the kind are only counted") as said:
        found = read(damaged, 10)
    assert len([warning for warning in said if "corrupt image" in str(warning.message)]) == 1
    bad = {0, 13} | ({17} if damaged.skipped["unreadable file"] else set())  # root reads what is closed
    pairs = [pair for rows in zip(read(whole, 10), found, strict=True) for pair in zip(*rows, strict=True)]
    assert all(one == other for one, other in pairs if one not in bad)
    assert not {other for _, other in pairs} & bad
    assert [other for one, other in pairs if one in bad]
    assert damaged.skipped["corrupt image"] >= 2
    assert read(damaged, 10) == found
    assert {index: item["label"] for index, item in enumerate(damaged.train_dataset())}[5] == 0


def test_counts_are_kept_when_a_run_is_resumed(numbers):
    data = ImageFolderData(numbers / "damaged", image_size=8, batch_size=4)
    loader = data.train_dataloader()
    with pytest.warns(UserWarning, match="skipped"):
        list(loader)
    counts = data.skipped
    again = ImageFolderData(numbers / "damaged", image_size=8, batch_size=4)
    resumed = again.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert again.skipped == counts
    old = {name: value for name, value in loader.state_dict().items() if name != "skipped"}
    again.train_dataloader().load_state_dict(old)
    assert not any(again.skipped.values())


def test_workers_tell_of_damaged_images_as_the_process_itself_does(numbers):
    data = [ImageFolderData(numbers / "damaged", image_size=8, batch_size=4, num_workers=n) for n in (0, 2)]
    with pytest.warns(UserWarning, match="skipped"):
        found = [[batch["image"].tolist() for batch in each.train_dataloader()] for each in data]
    assert found[0] == found[1]
    assert data[0].skipped == data[1].skipped


def test_a_folder_without_one_sound_image_is_refused(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"none of 3 images tried in .* can be used, the last for corrupt image: .*png"
    ):
        ImageFolderData(tmp_path, image_size=8).setup()


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("", "root is '': give a path"),
        ("  ", "root is '  ': give a path"),
        ("0.png", "the image folder .*is no folder: set root to the folder of your images"),
    ],
)
def test_roots_that_are_no_folder(tmp_path, monkeypatch, root, said):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=said):
        ImageFolderData(root)


@pytest.fixture
def captioned(tmp_path):
    for i in range(4):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", (i, i, i))
        (tmp_path / "ab"[i % 2] / f"{i}.txt").write_text(f"grey {i}\n")
    return tmp_path


def test_captions_lie_beside_the_images(captioned):
    (captioned / "b" / "3.txt").unlink()
    (captioned / "b" / "3.json").write_text('{"caption": ["grey 3", "dark 3"]}')
    data = ImageFolderData(captioned, image_size=8, batch_size=4, captions=Captions(prefix_probability=0))
    data.setup()
    assert data.captions
    assert data.num_classes is None
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"image", "caption"}
    assert [int(caption.split()[1]) for caption in batch["caption"]] == batch["image"][:, 0, 0, 0].tolist()
    assert data.prompts(3) == ["grey 0", "grey 2", "grey 1"]
    dataset = data.train_dataset()
    chosen = [dataset[3 + 4 * epoch]["caption"] for epoch in range(20)]
    assert set(chosen) == {"grey 3", "dark 3"}
    assert chosen == [dataset[3 + 4 * epoch]["caption"] for epoch in range(20)]


def test_images_without_a_caption_are_left_out(captioned):
    (captioned / "b" / "1.txt").unlink()
    (captioned / "a" / "0.txt").write_text("  ")
    (captioned / "a" / "2.txt").write_bytes(b"\xff\xfe\xff")
    data = ImageFolderData(captioned, image_size=8, batch_size=3, captions=Captions(prefix_probability=0))
    with pytest.warns(
        UserWarning, match=r"1 of 4 images in .* have no caption, the first is .*b/1\.png: they are left"
    ):
        data.setup()
    with pytest.warns(UserWarning, match="skipped, no caption"):
        batch = next(iter(data.train_dataloader()))
    assert batch["caption"] == ["grey 3"] * 3
    assert data.skipped["no caption"] >= 2


def test_no_captions_at_all_are_refused(captioned):
    for path in captioned.rglob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match=r"4 of 4 images in .* have no caption, the first is .*: write a txt or json"):
        ImageFolderData(captioned, image_size=8, captions=Captions()).setup()
