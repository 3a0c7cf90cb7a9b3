"""Agreement between the processes of a distributed training: shared counts, equal buffers."""

import torch
from torch import Tensor, distributed, nn


def shared_count(count: Tensor, module: nn.Module, *, least: float = 0.0) -> Tensor:
    """Get the divisor of a sum over one process's part of a batch, as if the whole batch were in one process.

    Gradients are averaged over the processes. Sums divided by each process's own count would weigh a process with few
    boxes or labelled pixels as much as one with many; divided by the mean count they add up to the whole batch's loss.

    This holds for the batches of one step in several processes, not for those that gradients are accumulated over
    (trainer.accumulate_grad_batches), each of which is divided by its own count.

    Args:
        count: Scalar, of this process's part.
        module: The loss. In eval mode, where processes may see different numbers of batches, nothing is exchanged.
        least: The whole batch counts at least so much.

    Returns:
        The mean over the processes, in `count`'s floating type (float32 of a whole number).
    """
    total, processes = count.detach().to(torch.promote_types(count.dtype, torch.float32), copy=True), 1
    if module.training and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
        processes = distributed.get_world_size()
    return total.clamp(min=least) / processes


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers, which a checkpoint holds; running statistics else differ a little."""
    if distributed.is_available() and distributed.is_initialized():
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)
