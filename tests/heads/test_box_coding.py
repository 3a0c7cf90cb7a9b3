"""Box coding against torchvision's coder."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image

from heads.box_coding import clip, decode, encode

CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


def random_boxes(*shape, size=320):
    corner = size * torch.rand(*shape, 2)
    return torch.cat([corner, corner + 1 + size * torch.rand(*shape, 2)], dim=-1)


def test_both_ways_are_torchvisions_bit_for_bit():
    torch.manual_seed(0)
    boxes, anchors, deltas = random_boxes(500), random_boxes(500), 5 * torch.randn(500, 4)
    assert torch.equal(encode(boxes, anchors), CODER.encode_single(boxes, anchors))
    assert torch.equal(decode(deltas, anchors), CODER.decode_single(deltas, anchors))
    clipped = clip_boxes_to_image(CODER.decode_single(deltas, anchors), (200, 320))
    assert torch.equal(decode(deltas, anchors, (200, 320)), clipped)
    assert torch.equal(clip(clipped, (200, 320)), clipped)


def test_a_batch_is_coded_row_by_row():
    boxes, anchors = random_boxes(3, 40), random_boxes(40) + torch.tensor([0.0, 0.0, 20.0, 20.0])
    deltas = encode(boxes, anchors)
    torch.testing.assert_close(decode(deltas, anchors), boxes, atol=1e-3, rtol=1e-5)
    assert torch.equal(deltas[1], encode(boxes[1], anchors))


def test_a_worked_example():
    anchor, box = torch.tensor([10.0, 10.0, 30.0, 50.0]), torch.tensor([14.0, 10.0, 54.0, 50.0])
    # Centre moves by 14 of 20 px, the width doubles.
    torch.testing.assert_close(encode(box, anchor), torch.tensor([7.0, 0.0, 5 * 0.6931472, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coding_is_float32_whatever_comes_in(dtype):
    anchors, deltas = random_boxes(20), torch.randn(20, 4).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        boxes = decode(deltas, anchors)
        assert boxes.dtype == encode(boxes, anchors).dtype == torch.float32
    assert torch.equal(boxes, CODER.decode_single(deltas.float(), anchors))


def test_wild_deltas_stay_finite():
    boxes = decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    assert boxes.isfinite().all() and (boxes[0, 2] - boxes[0, 0]).item() == pytest.approx(1000, rel=1e-4)
