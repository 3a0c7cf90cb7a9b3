"""A Gradle project of an Android app that measures an ONNX artifact: no cable and no adb on the phone's side."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.deploy.backend import load_runtime
from tasks.deploy.manifest import Manifest, read_manifest

HERE = Path(__file__).parent
PACKAGE = "mobiledense"
SETTINGS_GRADLE = """\
pluginManagement {{ repositories {{ google(); mavenCentral(); gradlePluginPortal() }} }}
dependencyResolutionManagement {{ repositories {{ google(); mavenCentral() }} }}
rootProject.name = "{package}"
include ":app"
"""
BUILD_GRADLE = """\
plugins {{ id "com.android.application" version "8.7.3" }}

android {{
    namespace "{package}"
    compileSdk 35
    defaultConfig {{ applicationId "{package}.measure"; minSdk 24; targetSdk 35; versionCode 1; versionName "1" }}
    compileOptions {{ sourceCompatibility JavaVersion.VERSION_11; targetCompatibility JavaVersion.VERSION_11 }}
    androidResources {{ noCompress "onnx", "bin" }}
}}

dependencies {{ implementation "com.microsoft.onnxruntime:onnxruntime-android:{version}" }}
"""
ANDROID_MANIFEST = """\
<manifest xmlns:android="http://schemas.android.com/apk/res/android">
    <application android:label="Measure {title}">
        <activity android:name=".MainActivity" android:exported="true">
            <intent-filter>
                <action android:name="android.intent.action.MAIN" />
                <category android:name="android.intent.category.LAUNCHER" />
            </intent-filter>
        </activity>
    </application>
</manifest>
"""
SETTINGS_JAVA = """\
package {package};

/** Of this artifact, and of the measurement. */
final class Settings {{
    static final String ARTIFACT = "{artifact}", INPUT = "{input}", TYPE = "{type}";
    static final long[] SHAPE = {{{shape}}};
    static final String[] OUTPUTS = {{{outputs}}};
    static final int THREADS = {threads}, WARMUP = {warmup}, RUNS = {runs};
    static final double TRIM = {trim};
}}
"""
README = """\
# {title} on an Android phone

Open this folder with Android Studio, or run `gradle assembleDebug` where Android's SDK is, and install
`app/build/outputs/apk/debug/app-debug.apk`. The app runs {artifact} on the sample beside it, and shows as one line of
JSON how far each output is from that of the machine that made it (in parts of the largest value), and the times in ms.

NOT BUILT: the machine that wrote this has no Android SDK. The phone is its own judge of speed; {rounding}.
"""
TYPES = {"uint8": "UINT8", "float32": "FLOAT"}


def write_android_app(artifact: Path, target: Path, protocol: Mapping[str, Any], *, threads: int = 1) -> Path:
    """Write the project.

    Args:
        artifact: Folder of an ONNX artifact.
        target: Folder to write; one that is there is replaced.
        protocol: "warmup", "runs" and "trim" of the measurement.
        threads: CPU threads of a call on the phone.

    Returns:
        `target`.

    Raises:
        ValueError: The artifact is of another format.
    """
    place, manifest = read_manifest(artifact)
    if manifest.backend != "onnx":
        raise ValueError(f"{artifact} is made for {manifest.backend}; the Android app takes what export=onnx wrote")
    runtime = load_runtime(place)
    shape = [max(manifest.batch, 1), *manifest.input.shape[1:]]
    drawn = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = drawn.to(getattr(torch, manifest.input.dtype))
    shutil.rmtree(target, ignore_errors=True)
    main = target / "app" / "src" / "main"
    code, assets = main / "java" / PACKAGE, main / "assets"
    for folder in (code, assets):
        folder.mkdir(parents=True)
    shutil.copy(place / manifest.artifact, assets)
    (assets / "images.bin").write_bytes(images.numpy().tobytes())
    for name, values in runtime(images).items():
        (assets / f"{name}.bin").write_bytes(values.float().numpy().astype("<f4").tobytes())
    for name in ("Measurement.java", "MainActivity.java"):
        shutil.copy(HERE / name, code)
    for file, text in _texts(manifest, shape, protocol, threads).items():
        (target / file).write_text(text, encoding="utf-8")
    return target


def _texts(manifest: Manifest, shape: list[int], protocol: Mapping[str, Any], threads: int) -> dict[str, str]:
    """{file: content} of what depends on the artifact."""
    title = f"{manifest.kind} in {manifest.precision}"
    rounding = "int8 differs by single steps of rounding" if manifest.precision != "fp32" else "fp32 differs below 1e-3"
    version = manifest.versions.get("onnxruntime", "1.31.1")
    settings = SETTINGS_JAVA.format(
        package=PACKAGE, artifact=manifest.artifact, input=manifest.input.name, type=TYPES[manifest.input.dtype],
        shape=", ".join(map(str, shape)), outputs=", ".join(f'"{output.name}"' for output in manifest.outputs),
        threads=threads, warmup=protocol["warmup"], runs=protocol["runs"], trim=protocol["trim"],
    )  # fmt: skip
    return {
        "settings.gradle": SETTINGS_GRADLE.format(package=PACKAGE),
        "gradle.properties": "android.useAndroidX=true\n",
        "app/build.gradle": BUILD_GRADLE.format(package=PACKAGE, version=version),
        "app/src/main/AndroidManifest.xml": ANDROID_MANIFEST.format(title=title),
        f"app/src/main/java/{PACKAGE}/Settings.java": settings,
        "README.md": README.format(title=title, artifact=manifest.artifact, rounding=rounding),
    }
