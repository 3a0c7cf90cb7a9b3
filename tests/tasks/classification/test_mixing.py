"""MixUp and CutMix: torchvision's, drawn from torch's CPU generator alone."""

import pytest
import torch
from torchvision.transforms import v2

from tasks.classification.mixing import Mixing

LABELS = torch.tensor([0, 3, 1, 3])


@pytest.fixture
def images():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 16, 12), dtype=torch.uint8)
    return pixels.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "kind"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_a_batch_is_mixed_as_torchvision_does(images, name, kind):
    mixing = Mixing(5, **{name: 0.8})
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, targets = mixing(images, LABELS)
        torch.manual_seed(seed)
        torch.rand(()), torch.randint(1, ())  # whether, and which
        expected, theirs = kind(alpha=0.8, num_classes=5)(images.float(), LABELS)
        assert torch.equal(mixed, expected) and torch.equal(targets, theirs)
        assert mixed.dtype == targets.dtype == torch.float32
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))


def test_both_are_equally_likely_and_some_batches_stay(images):
    torch.manual_seed(0)
    mixing = Mixing(5, mixup=0.8, cutmix=1.0, probability=0.75)
    whole = torch.nn.functional.one_hot(LABELS, 5).float()
    plain = mixed = boxed = 0
    for _ in range(400):
        result, targets = mixing(images, LABELS)
        changed = result != images
        if torch.equal(targets, whole):
            plain += 1
            assert torch.equal(result, images.float())
        elif torch.equal(result, torch.where(changed, images.roll(1, 0), images).float()):
            boxed += 1
        else:
            mixed += 1
    assert 60 < plain < 140 and 110 < boxed < 190 and 110 < mixed < 190


def test_nothing_on_gives_whole_targets(images):
    result, targets = Mixing(5)(images, LABELS)
    assert torch.equal(result, images.float()) and torch.equal(targets.argmax(1), LABELS)


@pytest.mark.parametrize("setting", [{"mixup": -1}, {"cutmix": float("inf")}, {"probability": 1.5}])
def test_settings_are_checked(setting):
    with pytest.raises(ValueError, match=rf"{next(iter(setting))}=.*expected"):
        Mixing(5, **setting)
