"""Layers built without initial values."""

import torch
from torch.nn import init

from backbones.blocks.initial_values import no_initial_values


def test_nothing_is_drawn_and_no_truncated_draw_waits_for_memory_to_fit():
    draws = init.uniform_, init.normal_, init.trunc_normal_, init.kaiming_normal_, init.xavier_uniform_
    state, expected = torch.get_rng_state(), torch.full((4, 4), 100.0)
    with no_initial_values():
        for draw in draws:
            tensor = expected.clone()
            getattr(init, draw.__name__)(tensor)
            assert torch.equal(tensor, expected), draw.__name__
    assert torch.equal(torch.get_rng_state(), state)
    assert init.trunc_normal_ is draws[2] and not torch.equal(init.trunc_normal_(expected.clone()), expected)
