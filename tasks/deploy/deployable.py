"""What is exported: a fused network that begins with pixels and ends in the output that is asked for.

Everything has the shapes that the image's size gives it, whatever the image holds, so that every exporter takes it.
What is not the network is a module of its own ("decoder", "nms") or has no weights, and stays floating point in int8.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tasks.base.network import Deployable
from tasks.base.task import VisionTask
from tasks.values.sizes import parse_size


def make_deployable(
    task: VisionTask, *, output: str | None = None, image_size: int | Sequence[int] | None = None, **options: Any
) -> Deployable:
    """Prepare a task's network for export.

    Args:
        task: Trained; it stays unchanged.
        output: One of `task.outputs`; None: the first, what the network itself computes.
        image_size: (H, W) px of the images, or the side of a square; only detection has to know.
        options: Those of `task.export_options`; None leaves one out.

    Returns:
        A fused copy in eval mode. Backbone and head are named "network.backbone" and "network.head".

    Raises:
        ValueError: The task has no such output, or the output no such option; detection lacks the image's size.
    """
    output = task.outputs[0] if output is None else output
    if output not in task.outputs:
        raise ValueError(f"output={output}: expected one of {', '.join(task.outputs)} for {task.kind}")
    given = {key: value for key, value in options.items() if value is not None}
    if {*given} - task.export_options(output):
        raise ValueError(
            f"{', '.join(given)}: options of detection's output=nms (limit: of decoded too), not of output={output}"
        )
    network = task.deployable().to(memory_format=torch.contiguous_format)  # what mobile runtimes start from
    size = None if image_size is None else parse_size(image_size, "image_size")
    return task.exported(network, output, size, **given).eval()
