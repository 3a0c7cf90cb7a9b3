"""Files of strangers: nothing in a checkpoint, a weights file or an artifact is run, whoever wrote its hashes."""

import ast
import hashlib
import io
import json
import os
import pickle
import zipfile
from contextlib import nullcontext, suppress

import pytest
import torch
from torch import nn

from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.weights.loading import load_weights
from tasks.base.checkpoint import read_checkpoint
from tasks.base.trusted_targets import TRUSTED, check_targets
from tasks.deploy.backend import load_runtime
from tasks.deploy.formats.program import exported_program
from tasks.deploy.formats.pt2_safety import check_pt2
from tasks.deploy.manifest import FILE, read_manifest
from tests.conftest import ROOT
from tests.test_house import FILES

FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# A module that a process hands to another one, which it starts itself, in a file that nobody else can write.
OWN_PICKLES = {"tasks/benchmark/peak_memory.py": 2}


def dangers(source: str) -> list[str]:
    """Calls and imports that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN]
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(ast.unparse(node))
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"):
            found.append(name)
        if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
            found.append(ast.unparse(node))
        if name in ("torch.jit.load", "torch.package.PackageImporter", "torch.hub.load", "tarfile.extractall"):
            found.append(name)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "import pickle", "from joblib import load",
        "yaml.load(text)", "eval(text)", "np.load(path, allow_pickle=True)", "subprocess.run(text, shell=True)",
    ],
)  # fmt: skip
def test_the_scan_finds_what_it_looks_for(source):
    assert dangers(source)


def test_nothing_in_the_code_base_runs_what_a_file_holds():
    found = {str(path.relative_to(ROOT)): dangers(path.read_text()) for path in FILES}
    assert {name: len(calls) for name, calls in found.items() if calls} == OWN_PICKLES


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, marker) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def marker(tmp_path):
    """What an attack leaves behind."""
    return tmp_path / "it_ran"


@pytest.fixture(params=["torch.save", "pickle"])
def evil_file(request, tmp_path, marker):
    path = tmp_path / "evil.ckpt"
    content = {"state_dict": {"a": Evil(marker)}, "config": {}, "classes": {}, "fused": False}
    if request.param == "torch.save":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def test_a_malicious_checkpoint_is_refused_unrun(evil_file, marker):
    with pytest.raises(ValueError, match=r"evil\.ckpt cannot be read as a checkpoint"):
        read_checkpoint(evil_file)
    for module in (mobilenet_v3_small(), nn.Linear(1, 1)):  # backbone.weights=, head.weights=
        with pytest.raises(ValueError, match=r"evil\.ckpt: not a file of plain tensors"):
            load_weights(module, evil_file)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists(), "the attack itself works"


def test_a_configuration_that_calls_foreign_code_is_refused(tmp_path):
    config = {"task": {"_target_": "torch.hub.load", "repo_or_dir": "somebody/evil", "model": "run"}}
    torch.save({"state_dict": {}, "config": config, "classes": {}, "fused": False}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt wants to call 'torch\.hub\.load'"):
        read_checkpoint(tmp_path / "evil.ckpt")


def test_a_tool_says_so_in_a_line(evil_file, marker, run_tool):
    status, _, err = run_tool(f"tools/predict.py checkpoint={evil_file} source=x.png")
    assert status == 1 and "evil.ckpt cannot be read as a checkpoint" in err and err.count("\n") <= 2
    assert not marker.exists()


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        return (self.conv(images.float()),)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """An exported program with a free batch size."""
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(exported_program(Tiny().eval(), torch.zeros(2, 3, 8, 8), dynamic_batch=True), path)
    return path


def manifest(**changed) -> dict:
    tensor = {"name": "images", "shape": [1, 3, 8, 8], "dtype": "float32"}
    return {
        "backend": "pt2", "artifact": "model.pt2", "kind": "segmentation", "output": "logits", "precision": "fp32",
        "input": tensor, "outputs": [{"name": "logits", "shape": [1, 2, 8, 8], "dtype": "float32"}],
        "classes": {"names": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]], "ids": None}, "config": {}, "settings": {},
        "preprocessing": {}, "anchors": {}, "versions": {}, "operators": {}, "delegated": None,
        "notes": [], "parity": {}, "metric": {}, "format": 2,
    } | changed  # fmt: skip


def write_artifact(folder, model: bytes, **changed):
    folder.mkdir(exist_ok=True)
    (folder / "model.pt2").write_bytes(model)
    hashes = {"hashes": {"model.pt2": hashlib.sha256(model).hexdigest()}}
    (folder / FILE).write_text(json.dumps(manifest(**hashes | changed)))
    return folder


def tampered(program, change) -> bytes:
    """The program's file after change({record: bytes})."""
    with zipfile.ZipFile(program) as archive:
        root = archive.namelist()[0].split("/")[0]
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


def edited(records, name, edit) -> None:
    content = json.loads(records[name])
    edit(content)
    records[name] = json.dumps(content).encode()


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickled_weight(records, evil) -> None:
    config = "data/weights/model_weights_config.json"
    edited(records, config, lambda content: content["config"]["conv.bias"].update(use_pickle=True))
    bias = json.loads(records[config])["config"]["conv.bias"]["path_name"]
    records[f"data/weights/{bias}"] = saved(evil)


def graph(change):
    return lambda records, evil: edited(
        records, "models/model.json", lambda content: change(content, evil.command.split()[1])
    )


def first_node(content) -> dict:
    return content["graph_module"]["graph"]["nodes"][0]


def named(content, key) -> dict:
    """The first object, at any depth, that has a key."""
    if isinstance(content, dict):
        if key in content:
            return content
        content = list(content.values())
    found = (named(value, key) for value in content) if isinstance(content, list) else ()
    return next((value for value in found if value), None)


ATTACKS = {
    "pickled weight": pickled_weight,
    "pickled samples": lambda records, evil: records.update({"data/sample_inputs/model.pt": saved((evil,))}),
    "code of guards": graph(
        lambda content, marker: content.update(guards_code=[f"__import__('os').system('touch {marker}') == 0"])
    ),
    "code as a size": graph(
        lambda content, marker: named(content, "expr_str").update(
            expr_str=f"__import__('os').system('touch {marker}') + Symbol('s34', positive=True, integer=True)"
        )
    ),
    "old weights": lambda records, evil: records.update({"data/weights/model.pt": saved(evil)}),
    "function": graph(lambda content, marker: first_node(content).update(target="torch.os.system")),
    "library": lambda records, evil: records.update({"data/aotinductor/model/a.so": b"\x7fELF"}),
    "opaque object": lambda records, evil: records.update({"data/constants/opaque_obj_0": pickle.dumps(evil)}),
    "odd name": graph(lambda content, marker: first_node(content).update(name="a=__import__('os')")),
    "no file": lambda records, evil: records.pop("models/model.json"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_program_is_refused_unrun(program, tmp_path, marker, attack):
    model = tampered(program, lambda records: ATTACKS[attack](records, Evil(marker)))
    with pytest.raises(ValueError, match=r"model\.pt2 is no \.pt2 file that is safe to load \("):
        load_runtime(write_artifact(tmp_path / "artifact", model))
    assert not marker.exists()
    if attack in list(ATTACKS)[:4]:  # torch's own loader falls for it
        with suppress(Exception):
            torch.export.load(tmp_path / "artifact" / "model.pt2").module()(torch.zeros(2, 3, 8, 8))
        assert marker.exists()


def test_an_honest_program_runs(program, tmp_path):
    images, network = torch.rand(2, 3, 8, 8), torch.export.load(program).module()
    runtime = load_runtime(write_artifact(tmp_path / "artifact", tampered(program, lambda records: None)))
    torch.testing.assert_close(runtime(images)["logits"], network(images)[0].detach())
    check_pt2(program)


BIG = 10**30
MANIFESTS = {
    "parent": ({"artifact": "../model.pt2"}, "does not certify its own artifact"),
    "absolute": ({"artifact": "/etc/passwd"}, "does not certify its own artifact"),
    "number": ({"artifact": 7}, "artifact: expected a string"),
    "list": ({"config": []}, "config: expected an object"),
    "huge": ({"input": {"name": "a", "shape": [1, 3, BIG, 8], "dtype": "uint8"}}, "a tensor is"),
    "large": ({"input": {"name": "a", "shape": [1, 3, 10**6, 10**6], "dtype": "uint8"}}, "input: expected at most"),
    "dtype": ({"input": {"name": "a", "shape": [1, 3, 8, 8], "dtype": "load"}}, "a tensor is"),
    "flat": ({"input": {"name": "a", "shape": [3], "dtype": "uint8"}}, "input: expected a shape"),
    "hash": ({"hashes": {"model.pt2": 5}}, "hashes: expected names to hashes"),
    "colours": ({"classes": {"names": ["a"], "palette": [[0, 0, BIG]]}}, "classes.palette: expected an RGB colour"),
    "ids": ({"classes": {"names": ["a"], "palette": [[0, 0, 0]], "ids": [BIG]}}, "classes.ids: expected"),
    "key": ({"extra": 1}, "unexpected keyword argument"),
    "target": ({"config": {"task": {"_target_": "os.system", "command": "true"}}}, "wants to call 'os.system'"),
}


@pytest.mark.parametrize("fault", MANIFESTS)
def test_a_wrong_manifest_is_refused(program, tmp_path, fault):
    changed, message = MANIFESTS[fault]
    folder = write_artifact(tmp_path / "artifact", program.read_bytes(), **changed)
    with pytest.raises(ValueError, match=rf"manifest\.json.*{message}"):
        read_manifest(folder)


def test_files_beside_the_artifact_stay_beside_it(program, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    for name in ("../secret", str(tmp_path / "secret")):
        hashes = {name: hashlib.sha256(b"x").hexdigest()}
        folder = write_artifact(tmp_path / "artifact", program.read_bytes(), hashes=hashes, artifact=name)
        with pytest.raises(FileNotFoundError, match="which is not beside it"):
            read_manifest(folder)
    for text in (
        "[" * 100_000,
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 2}',
        "\ud800".encode(errors="surrogatepass").decode("latin-1"),
    ):
        (folder / FILE).write_text(text)
        with pytest.raises(ValueError, match="is no manifest of this toolkit"):
            read_manifest(folder)


STRANGE = (
    "os.system", "subprocess.run", "builtins.eval", "torch.load", "torch.hub.load", "numpy.load",
    "tasks.base.build.make", "hydra.utils.instantiate", "tasks.files.writing.write_bytes",
    "tasks.data.shard_writer.os.system", "torch.nn.os.system", "backbones.timm.torch.load",
    "tasks.base.optim.math.sqrt", "torch.optim.os.system", "lightning.os.system", ["os.system"], None,
    "backbones.variants.importlib", "backbones.variants.dataclass", "tasks.data.coco.Path", "heads.lraspp.Tensor",
)  # fmt: skip


@pytest.mark.parametrize("target", STRANGE, ids=str)
def test_a_stored_configuration_builds_nothing_else(target, monkeypatch):
    config = {"data": {"list": [{"a": {"_target_": target}}]}}
    with pytest.raises(
        ValueError, match=r"best\.ckpt wants to call .* no part of this toolkit; .* set MOBILE_DENSE_TR"
    ):
        check_targets(config, "best.ckpt")
    monkeypatch.setenv(TRUSTED, "other, mine")
    check_targets({"_target_": "mine.networks.Net"}, "best.ckpt")


def test_every_target_of_the_configurations_is_known():
    """But where a run is logged to: no file says that, since it may come from anybody."""
    for path in (ROOT / "conf").rglob("*.yaml"):
        for line in path.read_text().splitlines():
            if "_target_:" in line:
                config = {"_target_": line.split("_target_:")[1].split("#")[0].split(",")[0].strip(" }")}
                refused = pytest.raises(ValueError, match="is no part of this toolkit")
                with refused if path.parent.name == "logger" else nullcontext():
                    check_targets(config, path)
