import pytest
import torch
from PIL import Image

from pixelgen.encoders.clip import CLIP
from tiny_transformers import tiny_clip


@pytest.fixture(scope="module")
def clip():
    return CLIP(str(tiny_clip()))


def test_sentences_are_what_transformers_makes_of_them(clip):
    texts = ["a photo of a red cup", "a red-colored object"]
    vectors = clip.sentences(texts)
    assert vectors.shape == (2, 8)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    pixels = torch.zeros(1, 3, 28, 28)
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = clip.network(**tokens, pixel_values=pixels).text_embeds
    torch.testing.assert_close(vectors, expected)
    torch.testing.assert_close(vectors[:1], clip.sentences(texts[:1]))  # padding changes nothing


def test_pictures_are_what_transformers_makes_of_them(clip):
    generator = torch.Generator().manual_seed(0)
    array = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8, generator=generator).numpy()
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pixels = processor(Image.fromarray(array), return_tensors="pt")["pixel_values"]
    tokens = clip.tokenizer(["cup"], return_tensors="pt")
    with torch.no_grad():
        expected = clip.network(**tokens, pixel_values=pixels).image_embeds
    torch.testing.assert_close(clip.pictures([Image.fromarray(array)]), expected, atol=2e-3, rtol=0)


def test_only_the_middle_square_counts(clip):
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste(Image.new("RGB", (30, 30), "blue"), (30, 0))
    torch.testing.assert_close(
        clip.pictures([wide]), clip.pictures([Image.new("RGB", (30, 30), "blue")]), atol=2e-2, rtol=0
    )
    sizes = clip.pictures([Image.new("RGB", size) for size in ((1, 50), (500, 3))])
    assert sizes.isfinite().all()
