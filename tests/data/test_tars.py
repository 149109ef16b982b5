"""Reading tars: every way in which one can be damaged is counted and ends nothing else."""

import bz2
import gzip
import io
import tarfile
import warnings

import pytest

from pixelgen.data.tars import MAX_BYTES, SkipCounts, expand_shards, read_shard
from shard_files import write_shards, write_tar


def read(path):
    skipped = SkipCounts(quiet=True)
    samples = list(read_shard(str(path), skipped))
    return [sample.key for sample in samples], dict(skipped.counts), samples


@pytest.fixture
def shard(tmp_path):
    return write_tar(tmp_path / "a.tar", [(f"x/{i}", {"txt": "t" * 700, "cls": str(i)}) for i in range(4)])


def test_files_of_a_sample_stand_together(shard):
    keys, skipped, samples = read(shard)
    assert (keys, skipped) == (["x/0", "x/1", "x/2", "x/3"], {})
    assert samples[2].files == {"txt": b"t" * 700, "cls": b"2"}
    assert samples[2].size == 701


def test_compressed_and_piped_shards_are_read(shard, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(shard.read_bytes()))
    assert read(tmp_path / "a.tar.gz")[:2] == read(tmp_path / "a.tar.bz2")[:2] == read(shard)[:2]
    assert read(f"pipe:cat {shard}")[:2] == read(shard)[:2]


# each sample takes 512 + 1024 + 512 + 512 = 2560 bytes
@pytest.mark.parametrize(
    ("length", "keys"),
    [
        (3 * 2560 + 800, ["x/0", "x/1"]),  # in the text of x/3; whether x/2 is whole nobody knows then
        (2 * 2560, ["x/0"]),  # between two samples, which tarfile takes for the end
        (2 * 2560 + 100, ["x/0"]),  # in a header
        (2560 + 1536, ["x/0"]),  # between the two files of x/1
    ],
)
def test_truncated_tar_gives_what_is_whole(shard, length, keys):
    shard.write_bytes(shard.read_bytes()[:length])
    found, skipped, _ = read(shard)
    assert skipped == {"broken shard": 1}
    assert found == keys


def test_damaged_header_is_not_taken_for_the_end(shard):
    content = bytearray(shard.read_bytes())
    content[2 * 2560 + 150 : 2 * 2560 + 160] = b"\xff" * 10
    shard.write_bytes(content)
    keys, skipped, _ = read(shard)
    assert skipped == {"broken shard": 1}
    assert keys == ["x/0"]


def test_what_is_no_tar_at_all_is_an_unreadable_shard(tmp_path):
    (tmp_path / "text.tar").write_text("<html>not found</html>" * 100)
    (tmp_path / "empty.tar").touch()
    for shard in (tmp_path / "text.tar", tmp_path / "empty.tar", tmp_path / "missing.tar", "pipe:exit 3"):
        assert read(shard)[:2] == ([], {"unreadable shard": 1})


def test_command_that_fails_after_its_output_is_noticed(shard):
    skipped = read(f"pipe:head -c 4000 {shard}; exit 9")[1]
    # which of the two depends on whether the command ends before or after its first bytes are read
    assert skipped in ({"broken shard": 1}, {"unreadable shard": 1})


def test_a_sample_of_too_many_bytes_is_left_out_unread(tmp_path):
    """A quarter of a gigabyte of zeros, a megabyte on disk."""
    path, block = tmp_path / "bomb.tar.gz", bytes(1 << 24)
    with gzip.open(path, "wb", compresslevel=1) as file:
        for key, size in (("x/0.png", 3), ("x/1.png", MAX_BYTES + len(block)), ("x/2.png", 5)):
            member = tarfile.TarInfo(key)
            member.size = size
            file.write(member.tobuf())
            for _ in range(size // len(block)):
                file.write(block)
            file.write(bytes(-(-(size % len(block)) // 512) * 512))
        file.write(bytes(1024))
    keys, skipped, samples = read(path)
    assert (keys, skipped) == (["x/0", "x/2"], {"beyond limits": 1})
    assert [sample.files for sample in samples] == [{"png": bytes(3)}, {"png": bytes(5)}]


def test_the_files_of_a_sample_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr("pixelgen.data.tars.MAX_BYTES", 1000)
    path = write_tar(tmp_path / "a.tar", [("0", {"png": "p" * 600, "txt": "t" * 600}), ("1", {"png": "p" * 1000})])
    assert read(path)[:2] == (["1"], {"beyond limits": 1})


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_that_are_too_long_break_a_shard(tmp_path, kind):
    member, file = tarfile.TarInfo("0.png"), io.BytesIO()
    member.type, member.size = kind, 2 << 20
    file.write(member.tobuf() + b"9" * (2 << 20))
    (tmp_path / "a.tar").write_bytes(file.getvalue())
    assert read(tmp_path / "a.tar")[:2] == ([], {"unreadable shard": 1})


def test_what_archives_leave_behind_is_no_sample(tmp_path):
    names = ("a/0", "__MACOSX/a/0", "a/@eaDir/0.jpg/SYNOPHOTO_THUMB_M", "a/._1")
    path = write_tar(tmp_path / "a.tar", [(name, {"jpg": "?"}) for name in names])
    assert read(path)[:2] == (["a/0"], {})


def test_repeated_and_hidden_files_are_left_out(tmp_path):
    samples = [
        ("a", {"txt": "first", "cls": "1"}),
        ("a", {"TXT": "second"}),
        ("._a", {"txt": "?"}),
        ("b", {"txt": "b"}),
    ]
    keys, skipped, samples = read(write_tar(tmp_path / "a.tar", samples))
    assert keys == ["a", "b"]
    assert skipped == {"repeated file": 1}
    assert samples[0].files == {"txt": b"first", "cls": b"1"}


def test_the_first_of_each_kind_is_told_with_its_place():
    skipped = SkipCounts()
    with pytest.warns(UserWarning, match=r"skipped, no image: 7 in a\.tar"):
        skipped.add("no image", "7 in a.tar")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        skipped.add("no image", "8 in a.tar")
    assert dict(zip(SkipCounts.REASONS, skipped.take(), strict=True))["no image"] == 2
    assert sum(skipped.take()) == 0


def test_patterns(tmp_path):
    folder = write_shards(tmp_path / "s", [1] * 12)
    names = [f"{folder}/{i:03d}.tar" for i in range(12)]
    assert (
        expand_shards(folder)
        == expand_shards(f"{folder}/*.tar")
        == expand_shards(f"{folder}/{{000..011}}.tar")
        == names
    )
    assert expand_shards(f"{folder}/{{003,001}}.tar::{folder}/01?.tar") == [names[3], names[1], names[10], names[11]]
    assert expand_shards("http://host/{8..10}.tar") == [f"http://host/{i}.tar" for i in (8, 9, 10)]
    assert expand_shards("pipe:cat *.tar") == ["pipe:cat *.tar"]
    with pytest.raises(ValueError, match=r"no shards match .*none/\*\.tar: give the tar files"):
        expand_shards(str(tmp_path / "none" / "*.tar"))
