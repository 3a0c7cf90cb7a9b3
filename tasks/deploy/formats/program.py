"""Networks as exported programs, traced once for all formats that start from torch.export."""

import copy
from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.export import ExportedProgram

from tasks.base.network import Deployable
from tasks.deploy.formats.silence import silenced

_traced: WeakKeyDictionary[Deployable, dict[Hashable, ExportedProgram]] = WeakKeyDictionary()


def exported_program(
    model: Deployable, example: Tensor, *, dynamic_batch: bool = False, functional: bool = False
) -> ExportedProgram:
    """Trace a network whole.

    A network is traced once for each size and type of images. Each call gives a copy, which the caller may change; it
    shares the network's weights. Programs of a dynamic batch are traced each time, since copies would share what is
    known of its size.

    Args:
        model: In eval mode.
        example: Images of the size and type that the program takes.
        dynamic_batch: Let it take any number of them.
        functional: Replace operators that write in place, and decompose none.

    Raises:
        ValueError: Its control flow depends on what the images hold, or the batch cannot vary.
    """
    if dynamic_batch:
        return _functional(_trace(model, example, dynamic_batch=True), functional)
    # the tensors: a network whose weights were replaced since is another one
    tensors = tuple(id(tensor) for tensor in model.state_dict(keep_vars=True).values())
    kind = (tuple(example.shape), example.dtype, model.training, tensors)
    programs = _traced.setdefault(model, {})
    if (kind, functional) not in programs:
        if (kind, False) not in programs:
            programs[kind, False] = _trace(model, example)
        programs[kind, functional] = _functional(_copied(programs[kind, False]), functional)
    return _copied(programs[kind, functional])


def _functional(program: ExportedProgram, functional: bool) -> ExportedProgram:
    if not functional:
        return program
    with silenced("torch.export cannot do without operators that write in place"):
        return program.run_decompositions({})


def _copied(program: ExportedProgram) -> ExportedProgram:
    """The same program with a graph of its own, and with the same tensors."""
    tensors = [*program.state_dict.values(), *program.constants.values()]
    with silenced("torch.export cannot copy the program"):
        return copy.deepcopy(program, {id(tensor): tensor for tensor in tensors})


def _trace(model: Deployable, example: Tensor, *, dynamic_batch: bool = False) -> ExportedProgram:
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
