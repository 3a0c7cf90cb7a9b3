"""The segmentation task, piece by piece."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backbones.mobilenetv3 import mobilenet_v3_small
from heads.lraspp import LRASPP
from tasks.base.network import Network, build_network
from tasks.data.classes import Classes
from tasks.segmentation.task import SegmentationTask
from tasks.training.weight_averaging import EMA
from tests.oracles import randomised, relative_error

CLASSES = Classes(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


def network(**options) -> Network:
    torch.manual_seed(0)
    return build_network(mobilenet_v3_small(output_stride=16), lambda **k: LRASPP(**k, **options), len(CLASSES))


def test_normalisation_is_that_of_the_backbone():
    net = randomised(network())
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features = net.backbone((images / 255 - mean) / std)
    assert relative_error(net(images), net.head(features, (64, 64))) < 1e-5
    assert net(images, (32, 48)).shape == (2, 3, 32, 48)


def test_only_the_taps_that_the_head_reads_are_kept():
    net = network(deep="c4")
    assert [tap.name for tap in net.backbone.taps] == ["c3", "c4"]
    whole = sum(p.numel() for p in mobilenet_v3_small().parameters())
    assert sum(p.numel() for p in net.backbone.parameters()) < whole / 4


def test_deployable_is_fused_free_of_lightning_and_equal():
    task = SegmentationTask(randomised(network()), CLASSES).train()
    images = torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8)
    deployed = task.deployable()
    assert task.training
    assert not any(
        type(m).__module__.startswith("lightning") or isinstance(m, nn.BatchNorm2d) for m in deployed.modules()
    )
    with torch.inference_mode():
        assert relative_error(deployed(images), task.eval()(images)) < 1e-4


def test_frozen_norms_stay_frozen():
    task = SegmentationTask(randomised(network()), CLASSES, freeze_norm=True).train()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items() if ".norm." in name}
    assert before
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], 0.1)
    task(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).square().mean().backward()
    optimizer.step()
    state = task.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert any(p.grad is not None for p in task.parameters())


@pytest.mark.parametrize(("freeze", "free"), [("c2", "layers.2."), ("all", "head.")])
def test_a_frozen_part_stays_as_it_is_through_train(freeze, free):
    task = SegmentationTask(randomised(network()), CLASSES, freeze=freeze).train()
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], 0.1)
    task(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in task.network.state_dict().items() if not torch.equal(tensor, before[name])}
    frozen = {f"backbone.{name}" for name, _ in task.network.backbone.named_parameters()}
    assert any(free in name for name in changed) and any("running_mean" in name for name in changed)
    if freeze == "all":
        assert not any(name.startswith("backbone.") for name in changed)
    else:
        assert not any(name.startswith(tuple(f"backbone.layers.{at}." for at in range(2))) for name in changed)
        assert changed & frozen
    with pytest.raises(ValueError, match="the backbone has no c7; it has c1"):
        SegmentationTask(network(), CLASSES, freeze="c7")


def test_a_backbone_of_one_channel_sees_the_luminance():
    net = randomised(build_network(mobilenet_v3_small(in_channels=1), lambda **k: LRASPP(**k), 3))
    rgb = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    grey = (rgb * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert relative_error(net(rgb), net(grey)) < 1e-5


def test_norm_momentum_reaches_every_norm():
    task = SegmentationTask(network(), CLASSES, norm_momentum=0.25)
    assert {norm.momentum for norm in task.norms()} == {0.25}
    assert {norm.momentum for norm in SegmentationTask(network(), CLASSES).norms()} == {0.01, 0.1}


def test_flip_averaging_sees_the_mirrored_image_the_same_way():
    """With flips averaged, the prediction of a mirrored image is the mirrored prediction."""
    task = SegmentationTask(randomised(network()), CLASSES, tta_flip=True, tta_scales=(1.0, 0.5)).eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        straight = task.evaluate_images(images, (64, 96))
        mirrored = task.evaluate_images(images.flip(-1), (64, 96)).flip(-1)
        half = F.interpolate(images.float(), (32, 48), mode="bilinear", antialias=True)
        views = [task.network(view, (64, 96)).softmax(1) for view in (images, half)]
        views += [task.network(view.flip(-1), (64, 96)).softmax(1).flip(-1) for view in (images, half)]
    torch.testing.assert_close(straight, mirrored)
    torch.testing.assert_close(straight.exp(), sum(views) / 4)


def test_auxiliary_logits_weigh_in_at_their_own_resolution():
    torch.manual_seed(0)
    masks = torch.randint(0, 3, (2, 16, 24), dtype=torch.uint8)
    masks[0, :5] = 255
    raw = {"logits": torch.randn(2, 3, 16, 24), "auxiliary_logits.c4": torch.randn(2, 3, 4, 6),
           "auxiliary_logits.c3": torch.randn(2, 3, 5, 24)}  # fmt: skip
    losses = SegmentationTask(network(), CLASSES, auxiliary_weight=0.25).loss(raw, {"masks": masks})
    sizes = [logits.shape[2:] for logits in raw.values()]
    resized = [F.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0].long() for size in sizes]
    pairs = zip(raw.values(), resized, strict=True)
    main, *further = (F.cross_entropy(logits, seen, ignore_index=255) for logits, seen in pairs)
    assert {*losses} == {"cross_entropy", "auxiliary"}
    torch.testing.assert_close(losses["cross_entropy"], main)
    torch.testing.assert_close(losses["auxiliary"], 0.25 * sum(further))
    unweighed = SegmentationTask(network(), CLASSES, auxiliary_weight=0.0)
    assert {*unweighed.loss(raw, {"masks": masks})} == {"cross_entropy"}
    with pytest.raises(ValueError, match=r"task\.auxiliary_weight=-1: expected 0 or more"):
        SegmentationTask(network(), CLASSES, auxiliary_weight=-1)


def test_images_are_resized_as_the_weights_were_evaluated():
    task, images = SegmentationTask(network(), CLASSES).eval(), torch.zeros(1, 3, 24, 31)
    assert task.resized(images) is images
    task.shorter_side = 48
    assert task.resized(images).shape == task.resized(images.mT).mT.shape == (1, 3, 48, 62)
    task.network.image_size = (64, 64)  # an artifact's
    assert task.resized(images) is images


def test_predictions_come_at_the_size_asked_for():
    logits = torch.randn(2, 3, 8, 8)
    small, large = SegmentationTask(network(), CLASSES).predict(logits, [(8, 8), (16, 24)])
    assert torch.equal(small, logits[0].argmax(0).to(torch.uint8))
    planes = [cv2.resize(plane.numpy(), (24, 16), interpolation=cv2.INTER_LINEAR) for plane in logits[1]]
    assert np.array_equal(large.numpy(), np.stack(planes).argmax(0))


@pytest.mark.parametrize("scales", [[], [0.0, 1.0]])
def test_scales_are_checked(scales):
    with pytest.raises(ValueError, match="tta_scales"):
        SegmentationTask(network(), CLASSES, tta_scales=scales)


def test_the_average_warms_up_and_then_keeps_its_decay():
    ema = EMA(0.9)
    for updates, expected in ((1, 1 - 2 / 11), (1000, 0.1)):
        averaged, current = torch.zeros(3), torch.ones(3)
        ema._average([averaged], [current], updates)
        torch.testing.assert_close(averaged, torch.full((3,), expected))
    with pytest.raises(ValueError, match="ema_decay=1"):
        EMA(1.0)
