"""ExecuTorch: PyTorch's own runtime for phones; its XNNPACK delegate runs the network on the CPU."""

import operator
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.program import exported_program
from tasks.deploy.formats.silence import silenced
from tasks.deploy.manifest import Manifest
from tasks.deploy.script.runtimes import KEY
from tasks.files.writing import write_bytes
from tasks.quantization.scope import check_calibration

with silenced():
    from executorch.extension.pybindings import portable_lib

FAILURE = "ExecuTorch cannot hold the network"
# of these XNNPACK has integer kernels that its quantizer uses
INTEGER = {f"aten.{name}" for name in ("convolution", "linear", "add.Tensor", "mul.Tensor", "cat", "mean.dim")}
THREADS = "the runtime takes every core unless its thread pool is set: extension/threadpool, before the model is loaded"
aten = torch.ops.aten


class ExecuTorchBackend(Backend):
    """model.pte: one file, weights inside, packed by XNNPACK when it is loaded."""

    name, file, named = "executorch", "model.pte", False
    precisions = ("fp32", "int8")
    # nms: 1,200 pairs take 50 ms, ten times the network, and minutes to lower
    detections = ("raw", "boxes", "decoded")

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        example = example.contiguous()  # the strides of the example would become those that the artifact takes
        program = exported_program(model, example, functional=True)
        if options.precision == "int8":
            check_calibration(model, example, options.calibration, options.keep_float)
            with silenced(f"{FAILURE} in int8"), torch.random.fork_rng(devices=[]):
                program = quantized_program(program, example, options)
        with silenced(FAILURE), torch.random.fork_rng(devices=[]):
            content, every, delegated = lower(program)
        (folder / self.file).write_bytes(content)
        outside = [f"{count} {name}" for name, count in (every - delegated).items()]
        notes = [THREADS, *([f"outside XNNPACK, in plain C++: {', '.join(outside)}"] if outside else [])]
        return Exported(dict(every.most_common()), dict(delegated.most_common()), tuple(notes))

    def embed(self, path: Path, text: str) -> None:
        from executorch.exir._serialize._named_data_store import NamedDataStore
        from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

        program, store = deserialize_pte_binary(path.read_bytes()), NamedDataStore()
        if program.named_data:  # the weights
            store.merge_named_data_store(program.named_data)
        store.add_named_data(KEY, text.encode())
        program.named_data = store.get_named_data_store_output()
        write_bytes(path, bytes(serialize_pte_binary(program)))

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "ExecuTorchRuntime":
        return ExecuTorchRuntime(folder, manifest, threads=threads)

    def versions(self) -> dict[str, str]:
        return super().versions() | {name: version(name) for name in ("executorch", "torchao")}


class ExecuTorchRuntime(Runtime):
    """The artifact in this process.

    ExecuTorch has one thread pool a process, and loaded networks hold on to it. So a network that asks for another
    number of threads replaces the pool, and those that were loaded with the old one are loaded again when next called.
    """

    pool = 0  # how often the pool was replaced

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        self._load()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        if self._pool != ExecuTorchRuntime.pool or portable_lib._threadpool_get_thread_count() != self.threads:
            self._load()
        try:
            return self._module.forward([images])
        except RuntimeError as error:
            path = self.folder / self.manifest.artifact
            raise ValueError(f"ExecuTorch cannot run {path} ({error}); export it again") from error

    def _load(self) -> None:
        path = self.folder / self.manifest.artifact
        with silenced(f"ExecuTorch cannot run {path}"):
            if portable_lib._threadpool_get_thread_count() != self.threads:
                portable_lib._unsafe_reset_threadpool(self.threads)
                ExecuTorchRuntime.pool += 1
            self._module = portable_lib._load_for_executorch(str(path))
            self._module.method_meta("forward")  # else a broken file is noticed when it is first run
        self._pool = ExecuTorchRuntime.pool


def operator_events(runtime: ExecuTorchRuntime, images: Tensor, *, calls: int) -> list[tuple[str, bool, list[float]]]:
    """Run an artifact with its event trace on: (name, whether a delegate ran it, ms of each call), in order."""
    with silenced("ExecuTorch cannot trace the artifact"), TemporaryDirectory() as scratch:
        from executorch.devtools import Inspector  # seconds

        trace = str(Path(scratch, "trace.etdump"))
        path = str(runtime.folder / runtime.manifest.artifact)
        module = portable_lib._load_for_executorch(path, enable_etdump=True)
        for _ in range(calls):
            module.forward([images])
        module.write_etdump_result_to_file(trace)
        (block,) = (block for block in Inspector(etdump_path=trace).event_blocks if block.name == "Execute")
        return [(event.name, bool(event.is_delegated_op), list(event.perf_data.raw)) for event in block.events]


def quantized_program(program: ExportedProgram, example: Tensor, options: ExportOptions) -> ExportedProgram:
    """Quantize: symmetric weights a channel, asymmetric activations a tensor.

    Args:
        program: In floating point, without operators that write in place.
        example: Images that it takes.
        options: With calibration images.
    """
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer

    from tasks.deploy.formats.pt2e_int8 import quantize

    quantizer = xnnpack_quantizer.XNNPACKQuantizer()
    quantizer.set_global(xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True))
    module = quantize(program, quantizer, options, fold=True)
    with torch.no_grad():
        return torch.export.export(module, (example,), strict=False)


def lower(program: ExportedProgram) -> tuple[bytes, Counter[str], Counter[str]]:
    """Compile a program for ExecuTorch.

    Args:
        program: Without operators that write in place; it is changed.

    Returns:
        Content of the file, how often each operator stands in it, and how often in what XNNPACK runs.
    """
    # seconds of imports that running an artifact does not need
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    keep_delegable(program.graph_module)
    for node in program.graph.nodes:
        node.meta.pop("from_node", None)  # a history that every pass would copy: a fifth of the time
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    graph = edge.exported_program().graph_module
    delegates = [module for module in graph.children() if hasattr(module, "original_module")]
    delegated = sum((operators(part.original_module.graph_module) for part in delegates), Counter())
    every = operators(graph) + delegated
    return bytes(edge.to_executorch().buffer), every, delegated


def keep_delegable(module: GraphModule) -> None:
    """Replace, exactly, what would stay outside XNNPACK.

    Hard sigmoid is decomposed by ExecuTorch with integers, each of which becomes a copy outside the delegate. (Hard
    swish survives whole once it is not in place, as `run_decompositions({})` leaves it, and XNNPACK has it.)
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is aten.hardsigmoid.default:
            result = node.args[0]
            with graph.inserting_before(node):
                for target, arguments in (
                    (aten.add.Tensor, (3.0,)), (aten.hardtanh.default, (0.0, 6.0)), (aten.mul.Tensor, (1 / 6,)),
                ):  # fmt: skip
                    meta = dict(node.meta)
                    result = graph.call_function(target, (result, *arguments))
                    result.meta = meta
            node.replace_all_uses_with(result)
            graph.erase_node(node)
    module.recompile()


def operators(module: GraphModule) -> Counter[str]:
    """How often each operator stands in a graph; " int8" marks those that compute with integers."""
    found = Counter()
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem and "delegate" not in str(node.target):
            name = _name(node)
            inputs = [_name(value) for value in node.all_input_nodes[:2]]  # a bias is never quantized
            int8 = name in INTEGER and all("dequantize" in value for value in inputs)
            found[f"{name} int8" if int8 else name] += 1
    return found


def _name(node: Node) -> str:
    """ "aten.convolution.default" of a node."""
    name = getattr(node.target, "name", None)
    return name().replace("::", ".") if callable(name) else str(node.target)
