"""The configurations: everything composes, builds, and every experiment takes a step."""

import inspect
import os

import pytest
import torch
from hydra.errors import ConfigCompositionException
from hydra.utils import get_class, get_method
from omegaconf import OmegaConf

from backbones.blocks.initial_values import no_initial_values
from tasks.base.build import build_backbone, build_data, build_whole_network, make, task_kind
from tasks.training.fit import fit
from tests.backbones.test_contract import each_backbone
from tests.conftest import ROOT
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import composed, write_masks
from tests.tasks.detection.test_task import write_shapes
from tools.composition import read_choice

CONF = ROOT / "conf"
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("task", TASKS)
@each_backbone
def test_every_task_takes_every_backbone(task, config):
    """A task that sets nothing of the backbone is composed once, as Hydra takes the backbone's file as it is."""
    backbone = f"backbone={config.stem}"
    if "backbone" in OmegaConf.load(CONF / "task" / f"{task}.yaml"):
        whole = composed("train", f"task={task}", backbone)
    else:
        whole = composed("train", f"task={task}")
        whole.backbone = composed("train", backbone).backbone
    with no_initial_values():
        assert build_whole_network(whole, 5).head.num_classes == 5


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbones_file_names_its_factorys_options(name):
    config = composed("train", f"backbone={name}").backbone
    assert read_choice(CONF / "backbone" / f"{name}.yaml") == config
    factory = get_method(config["_target_"])
    accepted = set(inspect.signature(factory).parameters) - {"options"}
    with no_initial_values():
        accepted |= set(inspect.signature(type(build_backbone({"backbone": config})).__init__).parameters)
    assert set(config) - {"_target_"} <= accepted
    shared = {"output_stride", "weights", "in_channels"}
    shared |= {"width", "norm"} if name != "timm" else {"name"}  # a timm model's name decides on both
    assert shared <= set(config)


def test_every_factory_has_a_file():
    targets = {read_choice(CONF / "backbone" / f"{name}.yaml")["_target_"] for name in BACKBONES}
    for module in sorted((ROOT / "backbones").glob("*.py")):
        name = f"backbones.{module.stem}"
        members = vars(__import__(name, fromlist=["*"])).items() if module.stem != "__init__" else ()
        for factory, value in members:
            public = inspect.isfunction(value) and value.__module__ == name and not factory.startswith("_")
            if public and "weights" in inspect.signature(value).parameters and not module.stem.startswith("weight"):
                assert f"{name}.{factory}" in targets


def test_every_file_can_be_chosen():
    """A file in a group of a task or a tool is a choice; one outside a group is a tool's or is named by one."""
    named = {str(name) for path in CONF.rglob("*.yaml") for entry in OmegaConf.load(path).get("defaults", ())
             if not isinstance(entry, str) for name in entry}  # fmt: skip
    groups = {name.removeprefix("override").strip().lstrip("/") for name in named}
    for path in CONF.rglob("*.yaml"):
        relative = path.relative_to(CONF)
        assert len(relative.parts) == 1 or relative.parts[0] in groups, f"{relative} cannot be reached"
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert {path.stem for path in CONF.glob("*.yaml")} <= tools | {"tool"}


@pytest.mark.long
def test_every_head_is_for_a_task():
    for path in (CONF / "head").glob("*.yaml"):
        config = composed("train", "task=segmentation", f"head={path.stem}")
        assert get_class(config.head["_target_"]).kind in ("classification", "detection", "segmentation")


@pytest.mark.parametrize("group", ["optimizer", "scheduler", "trainer"])
def test_every_choice_of_a_group_composes(group):
    for path in (CONF / group).glob("*.yaml"):
        config = composed("train", "task=segmentation", f"{group}={path.stem}")
        assert make(config[group]) is not None


def test_the_command_line_wins_over_the_experiment_and_that_over_the_task():
    name = "experiment=camvid_lraspp_mnv3_large"
    assert composed("train", name).data["crop_size"] == [240, 320]
    config = composed("train", name, "backbone=mnv3_small", "head=raspp", "data.crop_size=[64,64]", "optimizer=sgd")
    assert config.backbone["_target_"].endswith("small")
    assert config.backbone["output_stride"] == 16
    assert config.head["_target_"].endswith("RASPP")
    assert config.data["crop_size"] == [64, 64]


@pytest.mark.parametrize("override", ["seeed=1", "backbone.widht=0.5", "trainer.max_epoch=3"])
def test_a_misspelt_key_fails(override):
    with pytest.raises(ConfigCompositionException):
        composed("train", "task=segmentation", override)


def test_a_misspelt_key_in_a_file_fails(tmp_path):
    from hydra import compose, initialize_config_dir

    (tmp_path / "bad.yaml").write_text("defaults: [train_schema, _self_]\nseeed: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"), pytest.raises(Exception, match="seeed"):
        compose("bad")


def tiny_teacher(data, folder):
    """A checkpoint on the same data; tests download none."""
    config = composed("train", "task=classification", "backbone=mnv3_small", f"output_dir={folder / 'teacher'}")
    config.data = data
    config.trainer = {**config.trainer, "accelerator": "cpu", "max_epochs": 1, "max_steps": 1}
    fit(config)
    os.environ.pop("MOBILE_DENSE_RUN")
    return folder / "teacher" / "last.ckpt"


@pytest.mark.long
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_takes_a_step(experiment, tmp_path, monkeypatch):
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
    config = composed("train", f"experiment={experiment}")
    if task_kind(config) == "detection":
        write_shapes(tmp_path / "data", train=2, val=1)
        data = composed("train", "task=detection", "data=coco", f"data.root={tmp_path / 'data'}").data
        config.data = {**data, "batch_size": 2, "image_size": [64, 64], "num_workers": 0}
    elif task_kind(config) == "classification":
        write_folders(tmp_path / "data", train=4, val=1)
        data = composed("train", "task=classification", "data=folders", f"data.root={tmp_path / 'data'}").data
        own = {key: config.data[key] for key in ("policy", "policy_magnitude", "color", "erasing", "repeats")}
        config.data = {**data, **own, "batch_size": 4, "image_size": 48, "num_workers": 0}
        if config.distillation:
            config.distillation.teacher = str(tiny_teacher(config.data, tmp_path))
    else:
        write_masks(tmp_path / "data", train=2, val=1, size=(64, 64))
        names = list(build_data(config).classes.names)
        data = composed(
            "train", "task=segmentation", "data=masks", f"data.root={tmp_path / 'data'}", "data.class_names=[a]"
        ).data
        config.data = {**data, "class_names": names, "batch_size": 2, "crop_size": [64, 64], "num_workers": 0}
    config.backbone.weights = None  # tests download nothing
    config.scheduler.warmup = 0  # published ones are longer than this run
    if config.head.get("pool") == "large49":
        config.head.pool = "large_scaled"  # 769 px images would take minutes; heads are tested at that size
    config.trainer = {
        **config.trainer,
        "accelerator": "cpu",
        "max_epochs": 1,
        "max_steps": 1,
        "check_val_every_n_epoch": 1,
    }
    if config.qat:
        config.output_dir, aware, config.qat = str(tmp_path / "float"), config.qat, None
        fit(config)
        os.environ.pop("MOBILE_DENSE_RUN")
        aware.checkpoint, aware.batches = f"{config.output_dir}/last.ckpt", 1
        config.qat = aware
    config.output_dir = str(tmp_path / "run")
    assert fit(config)["steps"] == 1


IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("experiment", "batch", "first", "highest", "last"),
    [  # rates by the formulas and settings of the published code that the headers cite, for images a step
        ("imagenet_repvit_m1_0", 8 * 256, 1e-6, 1e-3 * 256 * 8 / 512, 1e-5),
        ("imagenet_mobileone_s0", 8 * 32, 0.1 * 0.001, 0.1, 1e-6),
        ("imagenet_repvgg_a0", 256, 0.1, 0.1, 0.0),
        ("imagenet_snv2_100", 1024, 0.5, 0.5, 0.0),
        ("imagenet_mnv2", 8 * 32, 0.045, 0.045, 0.045 * 0.98**299),
        ("imagenet_mnv2_slim", 96, 0.045, 0.045, 0.045 * 0.98 ** (420 / 2.5 - 1)),
        ("imagenet_mnv3_large", 8 * 128, 0.064, 0.064, 0.064 * 0.973**299),
    ],
)
def test_rates_of_an_experiment_are_those_of_its_source(experiment, batch, first, highest, last):
    config = composed("train", f"experiment={experiment}")
    optimizer = make(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    steps = config.trainer.max_epochs * (IMAGENET // batch)
    (factor,) = make(config.scheduler)(optimizer, steps).lr_lambdas
    base = config.optimizer.lr
    assert base * factor(0) == pytest.approx(first)
    warm = factor.func.warmup_steps
    assert warm == pytest.approx((5 if warm else 0) * (IMAGENET // batch), abs=2), "epochs of the warm-up"
    assert base * factor(warm) == pytest.approx(highest)
    assert base * factor(steps - 1) == pytest.approx(last, rel=1e-3, abs=1e-5 * base)


def test_augmentation_of_experiments_is_that_of_their_sources():
    plain = {"policy": None, "color": 0.0, "erasing": 0.0, "progressive": None}
    expected = {  # crop and flip alone but for these
        "imagenet_repvit_m1_0": {"policy": "randaugment", "policy_magnitude": 27, "erasing": 0.25, "repeats": 3},
        "imagenet_mobileone_s0": {}, "imagenet_repvgg_a0": {}, "imagenet_mnv2": {},
        "imagenet_snv2_100": {"color": 0.4},
        "imagenet_mnv3_large": {"policy": "autoaugment", "erasing": 0.2},
    }  # fmt: skip
    for experiment, settings in expected.items():
        data = composed("train", f"experiment={experiment}").data
        wanted = plain | settings
        assert {key: data.get(key) for key in wanted} == wanted, experiment
    assert not composed("train", "experiment=imagenet_repvgg_a0").task.equivalent_decay


def test_every_experiment_states_what_was_published_and_what_was_verified():
    for name in EXPERIMENTS:
        header = (CONF / "experiment" / f"{name}.yaml").read_text().split("defaults:")[0].lower()
        assert "published" in header and ("not verified" in header or "no published" in header or "measured" in header)
