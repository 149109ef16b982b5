"""Bytes of a sample: what makes an item, and what is unusable for which reason. Nothing in a file ends a run."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from pixelgen.data.captions import Captions
from pixelgen.data.decoding import MAX_PIXELS, Decoder, Unusable, embeddings_of, label_of, read_image
from pixelgen.data.tars import Sample
from shard_files import picture


def decode(files, **options):
    return Decoder(8, **options)(Sample("a.tar", "key", files))


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"cls": b" 2\n"}, 2),
        ({"cls": b"cat"}, 1),
        ({"json": b'{"label": 2}'}, 2),
        ({"json": b'{"cls": "dog"}'}, 0),
        ({"json": b'{"label": 0, "cls": 2}'}, 0),
        ({"cls": b"1", "json": b'{"label": 2}'}, 1),
        ({"cls": b"1", "json": b'{"label": 2, "class_name": "bird"}'}, 2),
        ({"cls": b"1", "json": b"{"}, 1),
        ({"cls": b"\xef\xbb\xbfcat"}, 1),
    ],
)
def test_labels_are_numbers_or_names(files, label):
    assert label_of(files, 3, ["dog", "cat", "bird"]) == label
    assert decode({"png": picture(1), **files}, num_classes=3, class_names=["dog", "cat", "bird"])["label"] == label


@pytest.mark.parametrize(
    ("files", "detail"),
    [
        ({"cls": b"1"}, "'1' may be the number of a class or the name of another: pack the folder again"),
        ({"cls": b"0"}, "'0' may be the number"),  # no name, but of the same writer
        ({"cls": b"1", "json": b'{"class_name": "cow"}'}, "'cow' is not among the names"),
    ],
)
def test_a_number_is_never_taken_for_the_name_of_another_class(files, detail):
    with pytest.raises(Unusable, match=detail):
        label_of(files, 3, ["1", "10", "2"])


def test_a_number_beside_numbers_for_names():
    assert label_of({"json": b'{"label": 1}'}, 3, ["1", "10", "2"]) == 1  # a number in json is no name
    assert label_of({"cls": b"1", "json": b'{"class_name": "2"}'}, 3, ["1", "10", "2"]) == 2
    assert label_of({"cls": b"1"}, 3) == 1
    assert label_of({"cls": b"1"}, 3, ["00", "01", "02"]) == 1


@pytest.mark.parametrize("content", ["5", "null", '"label"', '["label"]', '{"label": null}', "{}", "{", "[" * 10**5])
def test_json_without_a_label_is_counted(content):
    with pytest.raises(Unusable) as verdict:
        label_of({"json": content.encode()}, 3)
    assert verdict.value.reason == "no label"


@pytest.mark.parametrize("content", [b"3", b"-1", b"cow", b"1.0", b"\xff"])
def test_labels_that_do_not_exist_are_counted(content):
    with pytest.raises(Unusable) as verdict:
        label_of({"cls": content}, 3, ["dog", "cat", "bird"])
    assert verdict.value.reason == "wrong label"


@pytest.mark.parametrize(
    ("files", "options", "reason"),
    [
        ({"txt": b"a"}, {}, "no image"),
        ({"png": picture(1)[:60]}, {}, "corrupt image"),
        ({"png": picture(1)}, {"min_side": 17}, "small image"),
        ({"png": picture(1), "json": b'{"caption": 3}'}, {"captions": Captions()}, "no caption"),
        ({"png": picture(1), "npy": b"?"}, {"text_states": True}, "no text states"),
    ],
)
def test_what_is_unusable_has_a_reason(files, options, reason):
    with pytest.raises(Unusable) as verdict:
        decode(files, **options)
    assert verdict.value.reason == reason


def test_random_choices_depend_on_seed_pass_and_key():
    def captions(seed=0, epoch=0):
        decoder = Decoder(8, seed, captions=Captions(prefix_probability=0.5))
        return [decoder(Sample("x/a.tar", str(i), {"png": picture(i), "txt": b"cat"}, epoch)) for i in range(40)]

    texts = [[item["caption"] for item in captions(*of)] for of in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[0] != texts[3]
    assert torch.equal(captions()[3]["image"], torch.full((3, 8, 8), 3, dtype=torch.uint8))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_text_embeddings_that_are_not_finite_are_left_out(bad):
    values = np.zeros((4, 8), np.float16)
    for kind in ("npy", "safetensors"):
        for content, is_bad in ((values, False), (values + np.float16(bad), True)):
            file = io.BytesIO()
            np.save(file, content)
            files = {kind: file.getvalue() if kind == "npy" else save({"text": torch.from_numpy(content)})}
            if is_bad:
                with pytest.raises(Unusable, match="no text states: they hold values that are not finite"):
                    embeddings_of(files)
            else:
                assert embeddings_of(files).shape == (4, 8)


def sideways(orientation=6):
    """A photo of 6 x 4 pixels, shown as 4 x 6: red above, blue below."""
    shown = Image.new("RGB", (4, 6), "red")
    shown.paste("blue", (0, 3, 4, 6))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    shown.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    return file.getvalue()


def test_images_are_turned_as_their_exif_orientation_asks_for():
    image = read_image(io.BytesIO(sideways()))
    assert (image.size, image.getpixel((0, 0)), image.getpixel((0, 5))) == ((4, 6), (255, 0, 0), (0, 0, 255))
    assert read_image(io.BytesIO(sideways()), upright=False).size == (6, 4)
    upright, lying = (decode({"png": sideways()}, upright=turn)["image"] for turn in (True, False))
    assert upright[:, 0, 4].tolist() == [255, 0, 0]
    assert upright[:, 7, 4].tolist() == [0, 0, 255]
    assert lying[:, 4, 0].tolist() == [255, 0, 0]
    assert read_image(io.BytesIO(sideways(orientation=77))).size == (6, 4)


def test_damaged_exif_does_not_damage_the_image():
    file = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(file, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_image(file).size == (6, 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats_are_told_by_the_content(kind, mode):
    file = io.BytesIO()
    Image.new(mode, (16, 16), (90, 90, 90) if mode == "RGB" else 90).save(file, kind)
    pixel = decode({"jpg": file.getvalue()})["image"][:, 4, 4]
    assert max(abs(int(value) - 90) for value in pixel) <= 2


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", b"\xc5\xd0\xd3\xc6" + bytes(28)]
)
def test_no_format_starts_another_program(content, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(Unusable, match="corrupt image: it is none of JPEG, PNG"):
        decode({"jpg": content})


def test_long_text_in_a_png_is_no_damage():
    about, file = PngImagePlugin.PngInfo(), io.BytesIO()
    about.add_itxt("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    Image.new("RGB", (8, 8), "red").save(file, "PNG", pnginfo=about)
    assert decode({"png": file.getvalue()})["image"][:, 4, 4].tolist() == [255, 0, 0]


def png_header(width, height, color=6):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13_000, 13_000), (30_000, 30_000), (1, MAX_PIXELS + 1), (2**31 - 1, 1)])
def test_too_many_pixels_are_beyond_limits_before_they_are_decoded(size):
    with pytest.raises(Unusable) as verdict:
        decode({"png": png_header(*size)})
    assert verdict.value.reason == "beyond limits"


def test_limits_of_the_reader_are_not_called_damage(monkeypatch):
    file = io.BytesIO()
    Image.new("F", (8, 8), 0.5).save(file, "TIFF")
    with pytest.raises(Unusable, match="beyond limits: its pixels are floating-point numbers"):
        decode({"tif": file.getvalue()})
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", memory_error)
    with pytest.raises(Unusable, match="beyond limits: it takes too much memory"):
        decode({"png": picture(1)})


def memory_error(image):
    raise MemoryError
