"""What processes agree on, in a group of two: the count that a loss is divided by, and the buffers of validation."""

import multiprocessing

import pytest
import torch
from torch import distributed, nn

from backbones.mobilenetv3 import mobilenet_v3_small
from heads.classification import LinearClassifier
from heads.gfl_lite import GFLLite
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from tasks.base.network import build_network
from tasks.base.processes import share_buffers, shared_count
from tasks.classification.task import ClassificationTask
from tasks.data.classes import Classes
from tasks.detection.gfl_loss import GFLLoss
from tasks.detection.ssd_losses import MultiboxLoss, SigmoidFocalLoss
from tasks.detection.task import DetectionTask
from tasks.segmentation.loss import SegmentationLoss
from tasks.segmentation.task import SegmentationTask

CLASSES = Classes(("a", "b"), ((0, 0, 0), (255, 0, 0)))
TASKS = {ClassificationTask: LinearClassifier, DetectionTask: SSDLite, SegmentationTask: LRASPP}


@pytest.fixture
def in_two(tmp_path):
    """in_two(work) -> [work(0), work(1)], each in a process of its own, both in one group."""

    def run(work):
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()

        def process(rank: int) -> None:
            distributed.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=rank, world_size=2)
            queue.put((rank, work(rank)))
            distributed.barrier()  # neither leaves while the other still connects
            distributed.destroy_process_group()

        both = [context.Process(target=process, args=(rank,), daemon=True) for rank in (0, 1)]
        for one in both:
            one.start()
        for one in both:
            one.join(60)
        assert [one.exitcode for one in both] == [0, 0]
        return [result for _, result in sorted(queue.get() for _ in both)]

    return run


@pytest.mark.parametrize(
    ("counts", "least", "expected"),
    [((1.0, 4.0), 0.0, 2.5), ((1, 4), 1.0, 2.5), ((0, 0), 1.0, 0.5), ((0, 1), 1.0, 0.5), ((0.0, 0.0), 0.0, 0.0)],
)
def test_the_count_of_the_whole_batch_is_shared_evenly(in_two, counts, least, expected):
    """`least` is of the whole batch, not of each process; the count that comes in stays as it is."""

    def work(rank: int):
        count = torch.tensor(counts[rank])
        trained = shared_count(count, nn.Identity().train(), least=least)
        return trained.item(), trained.dtype, count.item()

    assert in_two(work) == [(expected, torch.float32, count) for count in counts]


def test_nothing_is_exchanged_in_evaluation(in_two):
    def work(rank: int) -> float:
        return shared_count(torch.tensor([3.0, 0.0][rank]), nn.Identity().eval(), least=1.0).item()

    assert in_two(work) == [3.0, 1.0]


def test_one_process_keeps_its_count():
    count = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    alone = shared_count(count, nn.Identity().train())
    assert alone.dtype == torch.float64 and alone.item() == 3 and not alone.requires_grad
    assert shared_count(torch.tensor(0), nn.Identity().train(), least=1.0).item() == 1


def filled(module: nn.Module, rank: int) -> None:
    """Give every parameter and buffer a value that tells place and process."""
    with torch.no_grad():
        for place, tensor in enumerate((*module.parameters(), *module.buffers())):
            tensor.fill_(100 * rank + place)


def test_buffers_become_those_of_the_first_process_and_parameters_stay(in_two):
    def work(rank: int) -> list[float]:
        norm = nn.BatchNorm1d(1)
        filled(norm, rank)
        share_buffers(norm)
        return [tensor.item() for tensor in (*norm.parameters(), *norm.buffers())]

    assert in_two(work) == [[0, 1, 2, 3, 4], [100, 101, 2, 3, 4]]


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_validation_begins_with_the_first_processs_buffers(in_two, kind):
    """Each process has statistics of its own part of the data; the checkpoint, and so the score, has the first's."""

    def work(rank: int) -> tuple[list[float], ...]:
        task = kind(build_network(mobilenet_v3_small(), TASKS[kind], 2), CLASSES)
        filled(task.network, rank)
        task.on_validation_epoch_start()
        return tuple([part.flatten()[0].item() for part in parts]
                     for parts in (task.network.parameters(), task.network.buffers()))  # fmt: skip

    first, second = in_two(work)
    assert second[1] == first[1] and len(first[1]) > 100
    assert all(b == a + 100 for a, b in zip(first[0], second[0], strict=True))


def detection_loss(loss, head, **options):
    """Of a batch with three boxes in one image and one in the other."""
    head = head(mobilenet_v3_small().taps, 2, **options)
    boxes = torch.tensor([
        [[4.0, 4, 40, 44], [50, 8, 90, 60], [30, 50, 70, 95]], [[20, 20, 76, 70], [0, 0, 0, 0], [0, 0, 0, 0]],
    ])  # fmt: skip
    labels, count = torch.tensor([[0, 1, 0], [1, -1, -1]]), len(head.anchors((96, 96)))
    deltas, columns = ("box_distributions", 32) if isinstance(head, GFLLite) else ("box_deltas", 4)
    raw = {deltas: torch.randn(2, count, columns), "class_logits": torch.randn(2, count, head_columns(head))}

    def of(part: slice):
        return loss.train()({key: value[part] for key, value in raw.items()},
                            {"boxes": boxes[part], "labels": labels[part]}, head, (96, 96))  # fmt: skip

    return of


def head_columns(head) -> int:
    return getattr(head, "class_columns", head.num_classes)


def segmentation_loss(**options):
    """One image is labelled whole, the other in a corner, and not with the same classes."""
    logits, masks = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    masks[1], masks[1, :2, :3] = 255, 1
    criterion = SegmentationLoss(**options).train()
    return lambda part: criterion(logits[part], masks[part])


def classification_loss(**options):
    task = ClassificationTask(build_network(mobilenet_v3_small(), LinearClassifier, 2), CLASSES, **options).train()
    logits, labels = torch.randn(4, 2), torch.tensor([0, 0, 0, 1])

    def of(part: slice):
        two = slice(2 * part.start, 2 * part.stop)
        return task.loss(logits[two], {"labels": labels[two]})

    return of


@pytest.mark.parametrize("make", [
    lambda: detection_loss(MultiboxLoss(), SSDLite),
    lambda: detection_loss(SigmoidFocalLoss(), SSDLite, score_type="sigmoid"),
    lambda: detection_loss(GFLLoss(), GFLLite), segmentation_loss,
    lambda: segmentation_loss(class_weights=[1, 2, 5], label_smoothing=0.1),
    lambda: classification_loss(class_weights=[1.0, 4.0], label_smoothing=0.1), classification_loss,
], ids=["multibox", "focal", "gfl", "segmentation", "weighted", "weighted classes", "classes"])  # fmt: skip
def test_the_mean_of_two_processes_losses_is_the_loss_of_both_parts_in_one(in_two, make):
    """As gradients are averaged over processes, so is the loss that they follow from."""
    torch.manual_seed(0)
    of = make()
    whole = {name: value.item() for name, value in of(slice(0, 2)).items()}
    parts = in_two(lambda rank: {name: value.item() for name, value in of(slice(rank, rank + 1)).items()})
    for name, value in whole.items():
        assert (parts[0][name] + parts[1][name]) / 2 == pytest.approx(value, rel=1e-5), name
