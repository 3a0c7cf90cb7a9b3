"""torch.export's own format: needs nothing but torch, and is what the other formats start from."""

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.program import exported_program
from tasks.deploy.formats.pt2_safety import check_pt2
from tasks.deploy.manifest import Manifest
from tasks.deploy.script.runtimes import KEY
from tasks.files.writing import write_bytes


class Pt2Backend(Backend):
    """model.pt2: an exported program, with its weights."""

    name, file, dynamic, varying, named = "pt2", "model.pt2", True, True, False
    tolerance = 1e-5

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        program = exported_program(model, example, dynamic_batch=options.dynamic_batch)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # with paths of this machine
        torch.export.save(program, folder / self.file)
        return Exported(operators(program))

    def embed(self, path: Path, text: str) -> None:
        content = BytesIO(path.read_bytes())
        with ZipFile(content, "a") as archive:
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/extra/{KEY}", text)
        write_bytes(path, content.getvalue())

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


def operators(program: torch.export.ExportedProgram) -> dict[str, int]:
    """How often each operator stands in a program, the most frequent first."""
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    return dict(
        Counter(
            str(getattr(target, "name", lambda t=target: getattr(t, "__name__", t))()) for target in calls
        ).most_common()
    )
