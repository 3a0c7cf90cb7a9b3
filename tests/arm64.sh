#!/usr/bin/env bash
# Artifacts on the NEON kernels of 64-bit ARM, emulated: what tests/benchmarks/emulated_processors.py says, on the runtimes' own aarch64 wheels.
#   tests/arm64.sh --checkpoint runs/x/best.ckpt runs/x/export/onnx-int8-argmax runs/x/export/ncnn-fp16-argmax
# It needs qemu-user-static and debootstrap of Debian, whose root (400 MB, made once, by root) lies in
# $ARM64_ROOT, else in ~/.cache/mobile-dense/arm64. Emulation says nothing of speed.
set -euo pipefail
PYTHON=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/python
REPOSITORY=$(cd "$(dirname "$0")/.." && pwd)
HOME_OF_ROOT=${ARM64_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/mobile-dense/arm64}
ROOT=$HOME_OF_ROOT/root SITE=$HOME_OF_ROOT/site
for tool in qemu-aarch64-static debootstrap dpkg-deb; do
    command -v "$tool" > /dev/null || { echo "no $tool; install it: apt-get install qemu-user-static debootstrap" >&2; exit 1; }
done
[ -x "$PYTHON" ] || { echo "no $PYTHON; make setup makes it" >&2; exit 1; }
if [ ! -x "$ROOT/usr/bin/python3.11" ]; then
    [ "$(id -u)" = 0 ] || { echo "debootstrap makes $ROOT once, as root; run this once as root, or set ARM64_ROOT" >&2; exit 1; }
    mkdir -p "$HOME_OF_ROOT"
    # unpacked alone: nothing in it is installed, or run but by the emulator
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libgomp1,libstdc++6 bookworm "$ROOT" > "$HOME_OF_ROOT/log" ||
        { echo "debootstrap could not make $ROOT; its last words: $(tail -n 1 "$HOME_OF_ROOT/log")" >&2; exit 1; }
    for package in "$ROOT"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$ROOT"; done
fi
wheels=(numpy pillow onnxruntime ncnn ai-edge-litert)
case "$*" in *executorch*) wheels+=(executorch torch typing_extensions sympy mpmath flatbuffers) ;; esac
for wheel in "${wheels[@]}"; do
    compgen -G "$SITE/${wheel//-/_}-*.dist-info" > /dev/null ||
        "$(dirname "$PYTHON")/uv" pip install --quiet --no-deps --python-platform aarch64-unknown-linux-gnu \
            --python-version 3.11 --constraints "$REPOSITORY/constraints.txt" --target "$SITE" "$wheel"
done
exec "$PYTHON" "$REPOSITORY/tests/benchmarks/emulated_processors.py" --root "$ROOT" --site "$SITE" "$@"
