import pytest
import torch
from torch.nn import functional as F

from pixelgen.encoders.mask2former import Mask2Former, instances
from pixelgen.evaluation.geneval.prompts import COCO
from tiny_transformers import tiny_mask2former


@pytest.fixture(scope="module")
def segmenter():
    return Mask2Former(str(tiny_mask2former()))


def test_scores_boxes_and_masks_by_hand():
    """Two queries, two classes: one sees a block of the image, the other nothing."""
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    masks = torch.full((2, 8, 8), -4.0)
    masks[0, 2:6, 4:8] = 2.0
    found = instances(logits, masks, (8, 8), (8, 8), (8, 8))
    probability = logits[0].softmax(0)
    assert [thing.label for thing in found] == [0, 1]
    sure = torch.tensor(2.0).sigmoid()
    assert [thing.score for thing in found] == pytest.approx([float(p * sure) for p in probability[:2]], rel=1e-5)
    assert found[0].box == (4, 2, 8, 6)
    assert found[0].mask.sum() == 16
    assert [thing.label for thing in instances(logits, masks, (8, 8), (8, 8), (8, 8), least=0.5)] == [0]
    assert instances(logits, masks, (8, 8), (8, 8), (8, 8), least=0.8) == []  # 0.84 · 0.88


def test_padding_is_cut_off_and_sizes_are_those_of_the_image():
    logits, masks = torch.tensor([[9.0, 0.0]]), torch.full((1, 4, 8), -5.0)
    masks[0, :, 5:] = 5.0
    # 32 x 64 pixels were seen, of which the image had 32 x 48; it is 16 x 24
    (thing,) = instances(logits, masks, (32, 64), (32, 48), (16, 24))
    whole = F.interpolate(masks[None], (32, 64), mode="bilinear", align_corners=False)[..., :48]
    expected = F.interpolate(whole, (16, 24), mode="bilinear", align_corners=False)[0, 0] > 0
    assert torch.equal(thing.mask, expected)
    assert thing.box == (20, 0, 24, 16)


def test_box_encloses_the_mask():
    masks = torch.full((1, 5, 7), -1.0)
    masks[0, 1, 2] = masks[0, 3, 5] = 1
    (thing,) = instances(torch.tensor([[1.0, 0.0]]), masks, (5, 7), (5, 7), (5, 7))
    assert thing.box == (2, 1, 6, 4)


def test_network_sees_what_mmdet_shows_it(segmenter, monkeypatch):
    seen = {}

    def watch(pixel_values):
        seen["x"] = pixel_values
        return original(pixel_values=pixel_values)

    original = segmenter.network.forward
    monkeypatch.setattr(segmenter.network, "forward", watch)
    image = torch.full((1, 3, 20, 40), 200, dtype=torch.uint8)
    found = segmenter(image)
    assert seen["x"].shape == (1, 3, 672, 1344)  # 40 px become 1333, 20 px 667 (rounded); multiples of 32
    red = (200 / 255 - 0.485) / 0.229
    assert (seen["x"][0, 0, :667, :1333] - red).abs().max() < 1e-5
    assert seen["x"][0, :, 667:].abs().max() == seen["x"][0, :, :, 1333:].abs().max() == 0
    assert all(thing.mask.shape == (20, 40) for thing in found[0])


def test_scores_agree_with_transformers(segmenter):
    """Which averages masks over another grid, so not to the digit."""
    from transformers import Mask2FormerImageProcessor

    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = sorted(thing.score for thing in segmenter(image)[0])
    x = F.interpolate(image.float() / 127.5 - 1, (800, 800), mode="bilinear")
    x = ((x + 1) / 2 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        output = segmenter.network(pixel_values=x)
    (theirs,) = Mask2FormerImageProcessor().post_process_instance_segmentation(
        output, threshold=0.0, target_sizes=[(64, 64)], return_binary_maps=True
    )
    scores = sorted(info["score"] for info in theirs["segments_info"])
    assert len(scores) > 0
    assert ours[-len(scores) :] == pytest.approx(scores, abs=2e-4)


def test_labels_and_freezing(segmenter):
    assert tuple(segmenter.labels) == COCO
    assert segmenter.revision.startswith("sha256:")
    assert not segmenter.state_dict()
    assert not any(weight.requires_grad for weight in segmenter.network.parameters())
