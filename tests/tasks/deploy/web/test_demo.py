"""export.demo=web: pages of three tasks find in a picture what `predict` finds, from a plain static host."""

import cv2
import numpy as np
import pytest
import torch

from tasks.base.build import build_task
from tasks.base.checkpoint_files import write_checkpoint
from tasks.data.classes import Classes
from tasks.demo.painting import paint_street
from tasks.deploy.artifact import artifact_predictor
from tasks.deploy.export import export
from tests.browser import StaticHost
from tools.cli import composed

pytestmark = pytest.mark.browser
CLASSES = Classes(("road", "car", "person"), ((128, 64, 128), (0, 0, 142), (220, 20, 60)))
FIND = """
    const demo = await import("./demo.js");
    await demo.ready;
    const blob = await (await fetch("picture.png")).blob();
    const { found } = await demo.predict(await demo.readPicture(blob));
    return { ...found, mask: found.mask && [...found.mask] };
"""


def trained(task: str):
    """A network whose outputs differ from picture to picture and from place to place, as a trained one's."""
    module = build_task(composed("train", [f"task={task}", "backbone=mnv1_025"]), CLASSES, pretrained=False)
    generator = torch.Generator().manual_seed(0)
    for parameter in (one for one in module.network.head.parameters() if one.ndim > 1):
        torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5, generator=generator)
    scene = torch.from_numpy(street()).permute(2, 0, 1).float()
    views = torch.stack([scene[:, y : y + 96, x : x + 96] for y in (0, 25, 50) for x in (0, 50, 100)])
    settle(module.train(), views + 30 * torch.randn(views.shape, generator=generator))
    if task == "detection":
        with torch.no_grad():
            raw = module.eval().network(views)
            for name, spread in (("class", 2.0), ("box", 1.5)):
                outputs = raw["class_logits" if name == "class" else "box_deltas"]
                for layers in getattr(module.network.head, f"{name}_layers"):
                    layers[-1].weight *= spread / outputs.std()
    return module.eval()


@torch.no_grad()
def settle(module, images: torch.Tensor) -> None:
    """Set BatchNorm statistics from images."""
    for norm in (one for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    module.network(images)


def street() -> np.ndarray:
    return paint_street(np.random.default_rng(1), (150, 200), {"car": 2, "person": 2}).image


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a task's network with its page: (folder of the artifact, of the page)."""
    root = tmp_path_factory.mktemp("exports")

    def make(task: str, *words: str):
        checkpoint = root / f"{task}.ckpt"
        module = trained(task)
        content = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 0}
        module.on_save_checkpoint(content)
        write_checkpoint(checkpoint, content)
        folder = root / f"{task} {' '.join(words)}"
        settings = [f"checkpoint='{checkpoint}'", f"output_dir='{folder}'", "export.evaluate=false", "overwrite=true"]
        config = composed("export", [*settings, "export.demo=web", "export.image_size=96", *words])
        _, failures = export(config)
        assert not failures
        (page,) = folder.glob("*-web")
        cv2.imwrite(str(page / "picture.png"), street()[..., ::-1])
        return page.with_name(page.name.removesuffix("-web")), page

    return make


@pytest.fixture
def find(chromium):
    """What a page finds in its picture."""
    hosts = []

    def found(page):
        hosts.append(StaticHost(page))
        opened(chromium, hosts[-1].address)
        result = chromium.run(FIND)
        used = chromium.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert used and all(name.startswith((hosts[-1].address, "blob:", "data:")) for name in used)
        return result

    yield found
    for host in hosts:
        host.end()


def opened(chromium, address: str) -> None:
    """Open a page, which loads itself a second time, and wait until it can be used."""
    chromium.open(address)
    chromium.until("document.body.dataset.state === 'ready'")


def predicted(artifact):
    predictor = artifact_predictor(composed("predict", [f"artifact='{artifact}'", "source=x"]))
    return predictor.find(street())


def test_classes_and_again_without_a_network(exported, chromium, tmp_path):
    artifact, page = exported("classification", "export=onnx")
    expected = predicted(artifact)
    assert expected.max() - expected.min() > 0.05, "or the test shows nothing"
    for file in (path for path in page.rglob("*") if path.suffix in (".json", ".js", ".html", ".css")):
        assert str(tmp_path.parent.parent) not in file.read_text(), "it says nothing of this machine"
    host = StaticHost(page)
    opened(chromium, host.address)
    assert np.abs(np.array(chromium.run(FIND)["scores"]) - expected).max() < 5e-3
    isolated, cores = chromium.run("return [crossOriginIsolated, navigator.hardwareConcurrency]")
    assert isolated, "threads, though the host sends no header for them"
    threads = f"{min(cores, 4)} thread"
    assert threads in chromium.run("return document.getElementById('about').textContent")
    host.end()
    opened(chromium, host.address)
    assert np.abs(np.array(chromium.run(FIND)["scores"]) - expected).max() < 5e-3


def test_masks(exported, find, chromium):
    artifact, page = exported("segmentation", "export=onnx")
    expected = predicted(artifact)
    assert len(np.unique(expected)) > 1
    assert np.mean(np.reshape(find(page)["mask"], expected.shape) == expected) > 0.995
    chromium.run("""
        const demo = await import("./demo.js");
        const file = new File([await (await fetch("picture.png")).blob()], "picture.png", { type: "image/png" });
        const data = new DataTransfer();
        data.items.add(file);
        dispatchEvent(Object.assign(new Event("drop"), { dataTransfer: data }));
    """)
    chromium.until("document.getElementById('list').children.length")
    largest = CLASSES.names[np.bincount(expected.ravel()).argmax()]
    assert chromium.run("return document.querySelector('#list b').textContent") == largest
    assert "ms network" in chromium.run("return document.getElementById('status').textContent")


@pytest.mark.parametrize("words", [("export=onnx", "export.detections=raw"), ("export=litert",)])
def test_boxes(exported, find, words):
    artifact, page = exported("detection", *words)
    expected, found = predicted(artifact), find(page)["boxes"]
    boxes, scores, labels = (np.asarray(getattr(expected, name))[:40] for name in ("boxes", "scores", "labels"))
    assert len({*labels.tolist()}) > 1 and scores.max() - scores.min() > 0.05, "or the test shows nothing"
    for box, score, label in zip(boxes, scores, labels, strict=True):
        near = [one for one in found if one["label"] == label and np.abs(np.subtract(one["box"], box)).max() < 0.5]
        assert any(abs(one["score"] - score) < 0.02 for one in near), (box, score, label)
