"""The public names, pinned; importing them is cheap; every module imports with the core dependencies alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import side4video

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "side4video"
PUBLIC = {
    "FrozenBackbone",
    "LayerTokens",
    "Side4VideoError",
    "SideNetwork",
    "SideSpec",
    "StreamingClassifier",
    "VideoClassifier",
    "VideoTextModel",
    "__version__",
    "create_backbone",
    "from_official",
    "from_pretrained",
    "list_backbones",
    "load",
    "predict",
    "push_to_hub",
}


def test_public_names_are_pinned() -> None:
    assert set(side4video.__all__) == PUBLIC
    assert set(dir(side4video)) == PUBLIC
    for name in PUBLIC:
        assert getattr(side4video, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        side4video.nothing  # noqa: B018


def test_public_names_have_docstrings() -> None:
    for name in PUBLIC - {"__version__"}:
        assert getattr(side4video, name).__doc__, name


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, side4video; print(sorted({'torch', 'timm', 'open_clip', 'av', 'pydantic'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_version_is_the_changelogs_newest() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == side4video.__version__


def core_packages() -> set[str]:
    """Import names of the core dependencies."""
    required = [r for r in requires("side4video") or [] if "extra ==" not in r]
    names = {re.split(r"[<>=\[;~! ]", r)[0].lower().replace("_", "-") for r in required}
    renamed = {"open-clip-torch": "open_clip", "pyyaml": "yaml", "pillow": "PIL", "qdrant-edge-py": "qdrant_edge"}
    # halves of pydantic and jinja2 that hold types of their interfaces
    return {renamed.get(name, name.replace("-", "_")) for name in names} | {"pydantic_core", "markupsafe"}


def test_modules_import_only_core_dependencies_at_the_top() -> None:
    allowed = core_packages() | set(sys.stdlib_module_names) | {"side4video"}
    offenders = []
    files = list(SOURCE.rglob("*.py"))
    assert len(files) > 20
    for path in files:
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            offenders += [f"{path.name}: {name}" for name in names if name.split(".")[0] not in allowed]
    assert not offenders


def test_nothing_is_unpickled() -> None:
    """No pickle loading; torch.load only with weights_only=True."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            if call in {"pickle.load", "pickle.loads", "np.load", "numpy.load", "joblib.load"}:
                found.append(f"{path.name}: {call}")
            if call == "torch.load" and "weights_only=True" not in ast.unparse(node):
                found.append(f"{path.name}: torch.load without weights_only=True")
    assert not found
