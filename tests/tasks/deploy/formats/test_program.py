"""A network is traced once for all formats, and what one format does to its program no other sees."""

import gc
import weakref

import pytest
import torch
from torch import nn

from tasks.deploy.formats.program import exported_program
from tests.tasks.quantization.small_networks import Small, pictures


@pytest.fixture
def traces(monkeypatch):
    """Networks that were traced, in order."""
    seen, trace = [], torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda model, *args, **more: seen.append(model) or trace(model, *args, **more)
    )
    return seen


def ruined(program):
    """Do to a program what no converter should."""
    for node in program.graph.nodes:
        node.meta.clear()
        if node.op == "call_function":
            node.target = torch.ops.aten.neg.default
    program.graph_module.recompile()
    program.state_dict.clear()
    program.graph_signature.input_specs.clear()


@pytest.mark.parametrize("functional", [False, True])
def test_a_format_that_changes_its_program_changes_no_other(traces, functional):
    model, images = Small("plain"), pictures()
    expected = model(images)[0]
    before = exported_program(model, images, functional=functional)
    ruined(exported_program(model, images, functional=functional))
    after = exported_program(model, images, functional=functional)
    for program in (before, after):
        torch.testing.assert_close(program.module()(images)[0], expected)
        assert all("val" in node.meta for node in program.graph.nodes if node.op == "call_function")
    assert str(after.graph) == str(before.graph)
    assert traces.count(model) == 1


def test_copies_hold_the_weights_of_the_network_itself():
    """A network of 20 MB is in memory once, however many formats it goes into."""
    model, images = Small("plain"), pictures()
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    programs = [exported_program(model, images, functional=functional) for functional in (False, True) * 3]
    for program in programs:
        held = [*program.state_dict.values(), *program.constants.values()]
        assert {tensor.data_ptr() for tensor in held if tensor.numel() > 1} <= own


def test_another_type_of_pixels_or_other_weights_are_traced_anew(traces):
    model, images = Small("plain"), pictures()
    exported_program(model, images)
    byte = exported_program(model, images.byte())
    assert traces.count(model) == 2
    assert byte.example_inputs[0][0].dtype == torch.uint8
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.weight = nn.Parameter(torch.zeros_like(last.weight))
    torch.testing.assert_close(exported_program(model, images).module()(images)[0], model(images)[0])


def test_a_program_does_not_keep_its_network():
    model = Small("plain")
    exported_program(model, pictures(), functional=True)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_programs_of_a_dynamic_batch_are_of_their_own(traces):
    model = Small("plain")
    for _ in range(2):
        program = exported_program(model, pictures(), dynamic_batch=True)
    assert traces.count(model) == 2
    assert program.module()(pictures(3))[0].shape == (3, 7)
