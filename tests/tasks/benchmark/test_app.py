"""The Android app's project holds what a phone needs to run, compare and time an artifact."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from tasks.benchmark.app import project
from tasks.benchmark.benchmark import benchmark
from tasks.benchmark.latency import summarize
from tasks.deploy.backend import load_runtime
from tests.tasks.benchmark.test_android import artifact
from tests.tasks.conftest import composed
from tests.tasks.deploy.onnx_artifacts import write_artifact

TRY = """
package mobiledense;

final class Try {
    public static void main(String[] words) {
        double[] times = new double[words.length];
        for (int index = 0; index < times.length; index++) times[index] = Double.parseDouble(words[index]);
        System.out.println("{" + Measurement.of(times, 0.1) + "}");
        float[] one = {1, -4}, other = {1.5f, -4};
        System.out.println(Measurement.difference(one, other) + " " + Measurement.difference(one, new float[1]));
        System.out.println(Measurement.difference(one, new float[] {Float.NaN, 1}));
    }
}
"""


@pytest.mark.parametrize("output", ["nms", "argmax"])
def test_the_project_has_the_artifact_a_sample_and_its_outputs(output, tmp_path):
    place = write_artifact(tmp_path / "artifact", output)
    words = ("android.app=true", "warmup=3", "rounds=2", "runs=7", "threads=4", f"output_dir={tmp_path / 'out'}")
    (told,) = benchmark(composed("benchmark", "target=android", f"artifact={place}", *words))
    assert "NOT BUILT" in told[0] and told[2] == [(str(place), str(tmp_path / "out/android-apps/artifact"))]
    main = tmp_path / "out/android-apps/artifact/app/src/main"
    settings = (main / "java/mobiledense/Settings.java").read_text()
    assert "THREADS = 4, WARMUP = 3, RUNS = 14" in settings and 'ARTIFACT = "model.onnx"' in settings
    runtime = load_runtime(place)
    spec = runtime.manifest.input
    images = np.fromfile(main / "assets/images.bin", spec.dtype).reshape(1, *spec.shape[1:])
    assert len(np.unique(images)) > 100
    for name, values in runtime(project.torch.from_numpy(images)).items():
        assert f'"{name}"' in settings
        assert np.array_equal(np.fromfile(main / "assets" / f"{name}.bin", "<f4"), values.float().numpy().ravel())
    gradle = (tmp_path / "out/android-apps/artifact/app/build.gradle").read_text()
    assert "onnxruntime-android:" in gradle and "{{" not in gradle


def test_another_format_has_no_app(tmp_path):
    place = artifact(tmp_path / "artifact", "litert")
    with pytest.raises(ValueError, match="made for litert; the Android app takes what export=onnx wrote"):
        benchmark(composed("benchmark", "target=android", "android.app=true", f"artifact={place}"))


@pytest.mark.java
def test_times_are_those_of_the_benchmark(tmp_path):
    shutil.copy(project.HERE / "Measurement.java", tmp_path)
    (tmp_path / "Try.java").write_text(TRY)
    times = [7.5, 1, 2, 3, 4, 5, 6, 8, 9, 10, 100]
    subprocess.run(["javac", "-d", "out", "Measurement.java", "Try.java"], cwd=tmp_path, check=True)
    command = ["java", "-cp", "out", "mobiledense.Try", *map(str, times)]
    lines = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    found, expected = json.loads(lines[0]), summarize(times)
    for key in ("trimmed", "median", "p90", "min", "max"):
        assert found[f"{key}_ms"] == pytest.approx(getattr(expected, key), abs=1e-4)
    assert lines[1:] == ["0.125 Infinity", "Infinity"]
