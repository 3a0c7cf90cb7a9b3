"""Lightning gets two classes of torchmetrics; whoever asks for more gets the whole package, and the same classes."""

import sys

import pytest

from tools.thin_torchmetrics import install_thin_torchmetrics

FILES = {
    "__init__.py": "from torchmetrics.metric import Metric\nAccuracy = 7\n",
    "__about__.py": '__version__ = "9.8"\n',
    "utilities.py": "from torchmetrics.metric import Metric\nfrom torchmetrics import _logger\n",
    "metric.py": "import torchmetrics.utilities\nclass Metric: pass\n",
    "collections.py": "from torchmetrics.metric import Metric\nclass MetricCollection: pass\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like torchmetrics, none of it loaded."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    for name, text in FILES.items():
        path = tmp_path / "torchmetrics" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "torchmetrics"
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        del sys.modules[name]


def test_two_classes_come_without_the_rest_and_the_rest_comes_when_asked_for(package):
    install_thin_torchmetrics()
    from torchmetrics import Metric, MetricCollection

    thin = sys.modules["torchmetrics"]
    assert thin.__version__ == "9.8" and "Accuracy" not in vars(thin)
    assert MetricCollection.__module__ == "torchmetrics.collections"
    with pytest.raises(AttributeError, match="__wrapped__"):
        _ = thin.__wrapped__
    from torchmetrics import Accuracy

    assert Accuracy == 7 and thin.Metric is Metric
    with pytest.raises(AttributeError, match="Nothing"):
        _ = thin.Nothing


def test_what_is_loaded_or_missing_is_left_alone(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", loaded := object())
    install_thin_torchmetrics()
    assert sys.modules["torchmetrics"] is loaded
    monkeypatch.delitem(sys.modules, "torchmetrics")
    monkeypatch.setattr("tools.thin_torchmetrics.find_spec", lambda name: None)
    install_thin_torchmetrics()
    assert "torchmetrics" not in sys.modules
