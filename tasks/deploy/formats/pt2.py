"""torch.export's own format: needs nothing but torch, and is what the other formats start from."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.pt2_safety import check_pt2
from tasks.deploy.manifest import Manifest


class Pt2Backend(Backend):
    """model.pt2: an exported program, with its weights."""

    name, file, dynamic = "pt2", "model.pt2", True
    tolerance = 1e-5

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        program = exported_program(model, example, dynamic_batch=options.dynamic_batch)
        torch.export.save(program, folder / self.file)
        return Exported(operators(program))

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "Pt2Runtime":
        return Pt2Runtime(folder, manifest, threads=threads)


class Pt2Runtime(Runtime):
    """The program run by torch. Threads are torch's own, so a call sets them and puts them back.

    Raises:
        ValueError: The file is damaged, or holds more than tensors and operators.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        path = folder / manifest.artifact
        check_pt2(path)
        try:
            self.module = torch.export.load(path).module()
        except Exception as error:  # whatever a damaged graph brings up
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path} cannot be loaded ({reason[:200]}); export it again") from error

    @torch.inference_mode()
    def run(self, images: Tensor) -> Sequence[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self.module(images)
        finally:
            torch.set_num_threads(before)


def exported_program(
    model: Deployable, example: Tensor, *, dynamic_batch: bool = False
) -> torch.export.ExportedProgram:
    """Trace a network whole.

    Args:
        model: In eval mode.
        example: Images of the size and type that the program takes.
        dynamic_batch: Let it take any number of them.

    Raises:
        ValueError: Its control flow depends on what the images hold, or the batch cannot vary.
    """
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}} if dynamic_batch else None
    example = example.contiguous()  # strides of channels_last would be traced as well
    if dynamic_batch and len(example) < 2:
        example = example.repeat(2, 1, 1, 1)  # a size of 1 would be taken for a constant
    try:
        with torch.no_grad():
            return torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        remedy = "; set export.dynamic_batch=false" if dynamic_batch else ""
        raise ValueError(
            f"torch.export cannot trace the network ({(str(error) or type(error).__name__).splitlines()[0]}){remedy}"
        ) from error


def operators(program: torch.export.ExportedProgram) -> dict[str, int]:
    """How often each operator stands in a program, the most frequent first."""
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    return dict(Counter(str(getattr(target, "name", lambda t=target: str(t))()) for target in calls).most_common())
