"""A folder packed into shards and read back."""

import json

import numpy as np
import pytest
from PIL import Image

from pixelgen.data import Captions, ShardData
from pixelgen.data.decoding import image_of
from pixelgen.data.pack import main, pack
from pixelgen.data.tars import SkipCounts, read_shard
from pixelgen.files import sole_writer


def fill(folder, count=6, captions=True, size=(20, 10)):
    for i in range(count):
        path = folder / f"{'ab'[i % 2]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), 10 * i, dtype=np.uint8)).save(path)
        if captions:
            path.with_suffix(".txt").write_text(f"grey {10 * i}")


def samples(folder):
    return [sample for shard in sorted(folder.glob("*.tar")) for sample in read_shard(str(shard), SkipCounts())]


def test_images_and_captions_come_back(tmp_path, capsys):
    fill(tmp_path / "in")
    packed = main([str(tmp_path / "in"), "--to", str(tmp_path / "out"), "--shard_mb", "0.0002"])
    assert (packed.images, packed.left_out) == (6, [])
    assert packed.shards == len(list((tmp_path / "out").glob("*.tar"))) > 1
    assert "6 images in" in capsys.readouterr().out
    found = samples(tmp_path / "out")
    assert [sample.key for sample in found] == [f"{i:08d}" for i in range(6)]
    assert sorted(int(sample.files["txt"].split()[1]) for sample in found) == list(range(0, 60, 10))
    for sample in found:
        assert np.array(image_of(sample.files))[0, 0, 0] == int(sample.files["txt"].split()[1])
    assert not (tmp_path / "out.unfinished").exists()


def test_class_folders_become_labels_that_the_data_module_knows(tmp_path):
    fill(tmp_path / "in", captions=False)
    pack(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text() == "a\nb\n"
    data = ShardData(str(tmp_path / "out"), image_size=8, batch_size=6, length=6)
    batch = next(iter(data.train_dataloader()))
    assert data.class_names == ["a", "b"]
    assert batch["label"].tolist() == [value // 10 % 2 for value in batch["image"][:, 0, 0, 0].tolist()]


def test_numbers_as_names_of_classes_stay_names(tmp_path):
    """Folders 1 to 12 in the order of texts: class 1 is folder 10."""
    names = sorted(str(i) for i in range(1, 13))
    for name in names:
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * int(name), 0, 0)).save(tmp_path / "in" / name / "x.png")
    pack(tmp_path / "in", tmp_path / "out")
    files = [sample.files for sample in samples(tmp_path / "out")]
    assert {(int(f["cls"]), json.loads(f["json"])["class_name"]) for f in files} == set(enumerate(names))
    data = ShardData(str(tmp_path / "out"), image_size=8, batch_size=12, length=12)
    batch = next(iter(data.train_dataloader()))
    assert [int(data.class_names[i]) * 20 for i in batch["label"]] == batch["image"][:, 0, 0, 0].tolist()
    renamed = ShardData(str(tmp_path / "out"), image_size=8, batch_size=12, length=12, class_names=names[::-1])
    batch = next(iter(renamed.train_dataloader()))
    assert [int(names[::-1][i]) * 20 for i in batch["label"]] == batch["image"][:, 0, 0, 0].tolist()


def test_a_folder_whose_name_is_no_line_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "in" / "two\nlines").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "two\nlines" / "x.png")
    with pytest.raises(ValueError, match="has a name that is not one line of text: rename it"):
        pack(tmp_path / "in", tmp_path / "out")


def test_damaged_images_and_missing_captions_are_named(tmp_path, capsys):
    fill(tmp_path / "in")
    (tmp_path / "in" / "a" / "0.png").write_bytes(b"\x89PNG no")
    (tmp_path / "in" / "b" / "1.txt").unlink()
    packed = main([str(tmp_path / "in"), "--to", str(tmp_path / "out")])
    assert packed.images == 4
    out = capsys.readouterr().out
    assert "2 images were left out" in out
    assert "a/0.png: corrupt image" in out
    assert "b/1.png: no caption" in out


def test_captions_that_say_nothing_are_as_if_missing(tmp_path):
    fill(tmp_path / "in")
    for name, content in {"a/0": b" \n", "b/1": b"\xff", "a/2": b"\xef\xbb\xbf"}.items():
        (tmp_path / "in" / f"{name}.txt").write_bytes(content)
    (tmp_path / "in/a/2.json").write_bytes(b"[1]")
    (tmp_path / "in/b/1.json").write_bytes(b'{"alt": "grey 10"}')
    packed = pack(tmp_path / "in", tmp_path / "out")
    assert sorted(packed.left_out) == [f"{tmp_path}/in/a/{i}.png: no caption" for i in (0, 2)]
    files = [tuple(sample.files) for sample in samples(tmp_path / "out")]
    assert sorted(files) == [("png", "json"), *[("png", "txt")] * 3]


def test_hidden_folders_are_passed_over(tmp_path):
    fill(tmp_path / "in", captions=False)
    fill(tmp_path / "in" / ".ipynb_checkpoints", captions=False)
    assert pack(tmp_path / "in", tmp_path / "out").images == 6


@pytest.mark.parametrize("options", [{"size": 0}, {"shard_mb": 0}])
def test_impossible_sizes_are_refused_before_anything_is_written(tmp_path, options):
    fill(tmp_path / "in")
    with pytest.raises(ValueError, match="give a positive number, and at least 1"):
        pack(tmp_path / "in", tmp_path / "out", **options)
    assert not (tmp_path / "out.unfinished").exists()


def test_large_images_are_shrunk_and_encoded(tmp_path):
    fill(tmp_path / "in", size=(40, 20))
    pack(tmp_path / "in", tmp_path / "out", size=10, encoding="webp")
    assert {image_of(sample.files).size for sample in samples(tmp_path / "out")} == {(20, 10)}
    assert {tuple(sample.files) for sample in samples(tmp_path / "out")} == {("webp", "txt")}
    pack(tmp_path / "in", tmp_path / "kept", size=20)
    assert {tuple(sample.files) for sample in samples(tmp_path / "kept")} == {("png", "txt")}


def test_an_interrupted_pack_is_started_again_and_a_used_target_refused(tmp_path, capsys):
    fill(tmp_path / "in")
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "00000.tar").write_text("half")
    assert pack(tmp_path / "in", tmp_path / "out").images == 6
    data = ShardData(str(tmp_path / "out"), image_size=8, captions=Captions())
    data.setup()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "in"), "--to", str(tmp_path / "out")])
    assert "out exists already: give another folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no images in"):
        pack(tmp_path / "none", tmp_path / "other")


@pytest.mark.parametrize("name", [" a", "a\nb", "a\udcff"])
def test_names_that_cannot_be_written_are_refused_before_the_work(tmp_path, name, monkeypatch):
    fill(tmp_path / "in", captions=False)
    (tmp_path / "in" / "a").rename(tmp_path / "in" / name)
    monkeypatch.setattr("pixelgen.data.pack._encoded", None)  # nothing may be decoded
    with pytest.raises(ValueError, match="a name that is not one line of text: rename it"):
        pack(tmp_path / "in", tmp_path / "out")


def test_the_training_part_is_packed_and_the_other_is_named(tmp_path, capsys):
    for part in ("train", "val"):
        fill(tmp_path / "in" / part, captions=False)
    packed = main([str(tmp_path / "in"), "--to", str(tmp_path / "out")])
    assert packed.images == 6
    assert (tmp_path / "out" / "classes.txt").read_text() == "a\nb\n"
    assert f"{tmp_path}/in/val was not: pack it into another folder" in capsys.readouterr().out.replace("\n", "")


def test_two_processes_never_write_one_set(tmp_path):
    fill(tmp_path / "in")
    with sole_writer(tmp_path / "out"):
        (tmp_path / "out.unfinished").mkdir()
        (tmp_path / "out.unfinished/00000.tar").write_text("of the first")
        with pytest.raises(ValueError, match=r"another process is writing .*out: wait for its end, or choose another"):
            pack(tmp_path / "in", tmp_path / "out")
        assert (tmp_path / "out.unfinished/00000.tar").read_text() == "of the first"
    assert pack(tmp_path / "in", tmp_path / "out").images == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_set_is_not_packed_into_its_own_source(tmp_path):
    fill(tmp_path / "in")
    with pytest.raises(ValueError, match=r"in/a/shards is in .*in itself"):
        pack(tmp_path / "in", tmp_path / "in/a/shards")


@pytest.mark.parametrize("encoding", ["jpg", "png", "webp"])
def test_turned_images_are_turned_once(tmp_path, encoding):
    """A photo of 40 x 20 pixels that is shown as 20 x 40: shrunk, or kept, it is upright for who reads the shards."""
    shown = Image.new("RGB", (20, 40), "red")
    shown.paste("blue", (0, 20, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    shown.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in/0.png", exif=exif)
    for to, options in {"kept": {}, "small": {"size": 10, "encoding": encoding}}.items():
        pack(tmp_path / "in", tmp_path / to, **options)
        pixels = next(iter(ShardData(str(tmp_path / to), image_size=8, batch_size=1).train_dataset()))["image"][0]
        assert pixels[0, 0, 4] > 200
        assert pixels[2, 7, 4] > 200
    pack(tmp_path / "in", tmp_path / "lying", size=10, upright=False)
    assert image_of(samples(tmp_path / "lying")[0].files).size == (20, 10)


def test_what_cannot_be_read_is_left_out_and_other_formats_are_encoded_anew(tmp_path):
    fill(tmp_path / "in", count=2)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "in/a/photo.tif")
    (tmp_path / "in/a/photo.txt").write_text("red")
    (tmp_path / "in/a/gone.png").symlink_to("nowhere")
    packed = pack(tmp_path / "in", tmp_path / "out")
    assert (packed.images, packed.left_out) == (3, [])
    assert packed.notes == [f"passed over in {tmp_path}/in: 1 × link that leads nowhere (a/gone.png)"]
    assert sorted(next(iter(sample.files)) for sample in samples(tmp_path / "out")) == ["jpg", "png", "png"]
