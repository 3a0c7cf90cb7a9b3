"""Observers that take less time see the same numbers as torchao's."""

import copy

import pytest
import torch
from torch import nn
from torchao.quantization.pt2e.observer import HistogramObserver, PerChannelMinMaxObserver

from tasks.deploy.formats.pt2e_int8 import hasten, histogram, settle

BINS = 2048


@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("kind", ["wide", "relu", "steps"])
def test_values_are_counted_as_histc_counts_them(size, kind):
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(3)) * size
    values = {"wide": values, "relu": values.relu(), "steps": (values / size * 8).round() / 8 * size}[kind]
    for low, high in ((values.min(), values.max()), (values.min() - size, values.max() + size / 3)):
        assert torch.equal(histogram(values, BINS, low, high), torch.histc(values, BINS, min=low, max=high))


@pytest.mark.filterwarnings("ignore:torch.inf")
def test_a_hastened_observer_ends_where_torchaos_does():
    settings = {"dtype": torch.int8, "qscheme": torch.per_tensor_affine, "quant_min": -128, "quant_max": 127}
    plain = HistogramObserver(**settings)
    network = nn.Sequential(copy.deepcopy(plain))
    hasten(network)
    assert type(network[0]) is not HistogramObserver
    generator = torch.Generator().manual_seed(0)
    seen = [torch.zeros(2), torch.zeros(0), torch.full((3,), 0.5)]
    seen += [torch.randn(1, 4, 16, 16, generator=generator).mul(scale).relu() for scale in (1, 3, 2, 3, 0.1)]
    seen += [torch.tensor([1.0, float("inf"), -2.0]), torch.randn(1, 4, 16, 16, generator=generator)]
    for values in seen:
        assert network(values) is plain(values) is values
        for name in ("histogram", "min_val", "max_val"):
            assert torch.equal(getattr(network[0], name), getattr(plain, name)), name
    assert network[0].calculate_qparams() == plain.calculate_qparams()


def test_a_settled_observer_keeps_what_it_saw_of_weights():
    network = nn.Sequential(PerChannelMinMaxObserver(ch_axis=0, dtype=torch.int8, qscheme=torch.per_channel_symmetric))
    weights = torch.randn(4, 3)
    network(weights)
    settle(network)
    assert network(weights * 2) is not None
    assert torch.equal(network[0].max_val, weights.amax(1))
