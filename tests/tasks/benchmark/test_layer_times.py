"""Oracles: a layer that sleeps, the counts of `profile`, a trace in ONNX Runtime's documented form."""

import time

import pytest
import torch
from torch import nn

from tasks.benchmark.costs import profile
from tasks.benchmark.layer_times import LayerTime, layers_table, profile_module, read_executorch_events, read_onnx_trace
from tasks.deploy.formats.executorch import ExecuTorchBackend, operator_events
from tests.tasks.quantization.small_networks import Small, exported, pictures


class Sleep(nn.Module):
    def forward(self, x):
        if x.device.type == "cpu" and type(x) is torch.Tensor:  # not while it is counted
            time.sleep(0.02)
        return x + 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.slow, self.last = nn.Conv2d(3, 8, 3), Sleep(), nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU())

    def forward(self, x):
        return self.last(self.slow(self.first(x))) * 2


def test_rows_find_the_slow_layer_and_add_up():
    model = Net().eval()
    layers, whole = profile_module(model, torch.rand(2, 3, 16, 16), runs=5)
    by_name = {layer.name: layer for layer in layers}
    assert layers[0].name == "slow" and layers[0].ms >= 20
    assert {"", "first", "slow", "last.0", "last.1"} <= set(by_name)
    assert sum(layer.ms for layer in layers) == pytest.approx(whole, rel=0.3)
    counted = profile(model, (16, 16), batch_size=2)
    assert sum(layer.macs for layer in layers) == counted.macs
    assert sum(layer.bytes_moved for layer in layers) == counted.memory_access_bytes
    assert by_name["first"].macs == 2 * 14 * 14 * 8 * 27
    assert not model._forward_hooks and not model.first._forward_pre_hooks


def test_the_table_holds_every_millisecond():
    layers = [LayerTime(f"l{index}", "Conv2d", 1.0, 2_000_000, 2**20) for index in range(30)]
    title, columns, rows = layers_table("net", layers, 31.0)
    assert len(rows) == 22 and rows[20][0] == "10 others"
    shown = [float(line[columns.index("ms")]) for line in rows]
    assert sum(shown[:-1]) == pytest.approx(shown[-1]) == 30
    assert rows[-1][columns.index("MACs M")] == "60.00" and rows[0][columns.index("GMAC/s")] == "2.0"
    assert "31.00 ms a call" in title


def test_onnx_runtimes_trace():
    def event(name, kind, dur, cat="Node", **sizes):
        return {"cat": cat, "name": name, "dur": dur, "args": {"op_name": kind, **sizes}}

    events = [
        event("model_run", "", 9000, cat="Session"),
        event("conv_fence_before", "Conv", 1),
        *(event("conv_kernel_time", "Conv", dur, output_size="400", parameter_size="100", activation_size="1000")
          for dur in (900, 30, 50, 40)),
        *(event("relu_kernel_time", "Relu", dur) for dur in (70, 5, 5, 5)),
    ]  # fmt: skip
    conv, relu = read_onnx_trace(events, warmup=1)
    assert (conv.name, conv.kind, conv.ms, conv.bytes_moved, conv.macs) == ("conv", "Conv", 0.04, 1500, None)
    assert (relu.ms, relu.bytes_moved) == (0.005, 0)


def test_executorchs_events_add_up_to_the_call():
    events = [
        ("Convolution IGEMM #1", True, [9.0, 1.0, 3.0, 2.0]), ("Add #1", True, [9.0, 0.5, 0.5, 0.5]),
        ("native_call_topk.values", False, [1.0, 1.0, 1.0]), ("DELEGATE_CALL", False, [20.0, 3.0, 3.0, 3.0]),
        ("Method::execute", False, [30.0, 4.2, 4.2, 4.2]),
    ]  # fmt: skip
    layers = read_executorch_events(events, warmup=1)
    assert [(layer.name, layer.ms) for layer in layers] == [
        ("Convolution IGEMM #1", 2.0), ("native_call_topk.values", 1.0), ("Add #1", 0.5),
        ("around the delegate's operators", 0.5),
    ]  # fmt: skip
    assert layers[0].kind == "Convolution IGEMM" and layers[0].macs is None


@pytest.mark.slow
def test_executorch_tells_of_the_operators_inside_xnnpack(tmp_path):
    format, images = ExecuTorchBackend(), pictures()
    told, manifest = exported(format, Small("plain"), images, tmp_path)
    events = operator_events(format.load(tmp_path, manifest), images, calls=3)
    assert all(len(times) == 3 for _, _, times in events)
    inside = [name for name, delegated, _ in events if delegated]
    convolutions = [name for name in inside if name.startswith(("Convolution", "Fully Connected"))]
    assert len(convolutions) == told.delegated["aten.convolution"] + told.delegated["aten.linear"]
    assert {"DELEGATE_CALL", "Method::execute"} <= {name for name, delegated, _ in events if not delegated}
