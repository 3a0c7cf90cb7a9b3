"""What NetAdapt leaves behind: search.json, search.png, widths.yaml, and tables for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tasks.base.build import monitored
from tasks.base.tables import Table
from tasks.files.writing import write_bytes, write_json
from tasks.search.adaptation import Settings, Step
from tasks.search.lab import Lab
from tasks.search.steps_picture import draw_search


class Report:
    """What a search leaves behind.

    Args:
        config: Of the search.
        folder: Where the files go.
        lab: What trained and measured.
        settings: Of the loop.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, lab: Lab, settings: Settings) -> None:
        self.config, self.folder, self.lab, self.settings = config, folder, lab, settings
        self.monitor = monitored(config)

    def write(self, steps: Sequence[Step], metric: float | None = None) -> None:
        """Write search.json and search.png, and widths.yaml once the metric after the last fine-tuning is known."""
        overrides = self.lab.overrides(steps[-1].widths)
        write_json(
            self.folder / "search.json",
            {
                "method": "netadapt", "finished": metric is not None, "monitor": self.monitor, "metric": metric,
                "target_ms": self.settings.target, "image_size": list(self.lab.image_size),
                **{key: self.config[key] for key in ("runtime", "precision", "threads")},
                "widths": overrides, "steps": [asdict(step) for step in steps],
            },
        )  # fmt: skip
        draw_search(steps, self.monitor, self.settings.target, self.folder / "search.png", metric)
        if metric is not None:
            words = OmegaConf.to_yaml({"backbone": {"widths": overrides}})
            write_bytes(self.folder / "widths.yaml", words.encode())

    def tables(self, steps: Sequence[Step], metric: float) -> list[Table]:
        """Tabulate the steps: predicted and measured latency, and the metric."""
        rows = [
            (
                str(step.iteration), _change(step, before), step.metric,
                f"{step.predicted:.3g}", f"{step.measured:.3g}",
                f"{100 * (step.predicted / step.measured - 1):+.1f} %", str(step.candidates),
            )
            for step, before in zip(steps, [None, *steps], strict=False)
        ]  # fmt: skip
        rows.append(("end", f"{self.config['netadapt']['final_steps']} steps", metric, *rows[-1][3:6], "-"))
        name, runtime, threads = self.monitor.removeprefix("val/"), self.config["runtime"], self.config["threads"]
        columns = ("iteration", "change", name, "predicted ms", "measured ms", "off by", "candidates")
        title = f"{self.folder}: {runtime} {self.config['precision']}, threads {threads}"
        inner = ", ".join(f"{name}: {channels}" for name, channels in self.lab.overrides(steps[-1].widths).items())
        return [(title, columns, rows), ("override", ("setting",), [(f"backbone.widths={{{inner}}}",)])]


def _change(step: Step, before: Step | None) -> str:
    if before is None or step.changed is None:
        return "checkpoint"
    return f"{step.changed} {before.widths[step.changed]} -> {step.widths[step.changed]}"
