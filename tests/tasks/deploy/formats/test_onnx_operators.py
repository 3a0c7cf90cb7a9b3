"""Graphs are those of torch's own table, which is read once and stays as it is for everybody else."""

import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from tasks.deploy.formats import onnx_operators
from tasks.deploy.formats.onnx_operators import READ, operators_read_once


def written() -> bytes:
    torch.manual_seed(0)
    program = torch.export.export(nn.Conv2d(3, 8, 3).eval(), (torch.rand(1, 3, 8, 8),))
    return torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()


def test_graphs_are_those_of_the_exporters_own_table(monkeypatch):
    own, expected, read = vars(ONNXRegistry)[READ], written(), []

    def reader(*args, **options):
        read.append(options)
        return own.__func__(*args, **options)

    monkeypatch.setattr(ONNXRegistry, READ, classmethod(reader))
    for _ in range(2):
        with operators_read_once():
            assert written() == expected
    assert len(read) == 1
    assert vars(ONNXRegistry)[READ].__func__ is reader, "others read it anew"


def test_what_an_export_adds_to_the_table_is_gone_in_the_next_one():
    with operators_read_once():
        first = ONNXRegistry().from_torchlib()
        target = next(iter(first.functions))
        count = len(first.functions[target])
        first.functions[target].clear()
        assert len(ONNXRegistry().from_torchlib().functions[target]) == count > 0


def test_a_torch_with_another_table_exports_as_it_does(monkeypatch):
    monkeypatch.setattr(onnx_operators._registration, "ONNXRegistry", None)
    with operators_read_once():
        pass
