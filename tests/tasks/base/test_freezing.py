"""Frozen norms and parts stay frozen when Lightning puts SyncBatchNorm in place of BatchNorm."""

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from backbones.mobilenetv3 import mobilenet_v3_small
from heads.classification import LinearClassifier
from tasks.base.network import build_network
from tasks.classification.task import ClassificationTask
from tasks.data.classes import Classes

CLASSES = Classes(("a", "b"), ((0, 0, 0), (9, 9, 9)))


def converted(**options) -> ClassificationTask:
    """A task in the form that a distributed run with trainer.sync_batchnorm=true trains."""
    torch.manual_seed(0)
    network = build_network(mobilenet_v3_small(width=0.25), LinearClassifier, len(CLASSES))
    made = ClassificationTask(network, CLASSES, optimizer=torch.optim.SGD, **options)
    made = TorchSyncBatchNorm().apply(made)
    made.train()
    return made


def test_frozen_norms_stay_so():
    made = converted(freeze_norm=True)
    norms = [module for module in made.network.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(norms) == 34
    assert not any(norm.training or norm.weight.requires_grad or norm.bias.requires_grad for norm in norms)
    before = [buffer.clone() for norm in norms for buffer in norm.buffers()]
    made(torch.rand(2, 3, 32, 32) * 255).sum().backward()
    assert all(torch.equal(old, new) for old, new in zip(before, (b for n in norms for b in n.buffers()), strict=True))
    trained = {id(p) for group in made._optimizer().param_groups for p in group["params"]}
    assert not trained & {id(parameter) for norm in norms for parameter in norm.parameters()}


@pytest.mark.parametrize("part", ["c2", "all"])
def test_frozen_parts_stay_so_and_thaw(part):
    made = converted(freeze=part, freeze_epochs=2)
    held = [module for root in made.network.backbone.modules_until(part) for module in root.modules()]
    norms = [module for module in held if isinstance(module, nn.SyncBatchNorm)]
    assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)
    made.freezing.apply(2)
    assert all(norm.weight.requires_grad for norm in norms) and not made.freezing.modules(2)


def test_what_is_not_frozen_trains():
    made = converted()
    assert all(norm.training and norm.weight.requires_grad for norm in made.norms())
