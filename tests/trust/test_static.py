"""Nothing that a file says is ever run: rules that hold for every line of the package, read from its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "side4video"
FILES = sorted(SOURCE.rglob("*.py"))
# the one place that unpickles, with a reader that builds plain containers only; and the one that names its exception
PICKLE_IMPORTERS = {"data/plain_pickle.py", "backbones/weights_errors.py"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS_TEXT = {"eval", "exec", "compile"}
RUNS_A_SHELL = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNSAFE_YAML = {"yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all", "yaml.load_all"}


def name_of(node: ast.expr) -> str:
    """A dotted name such as `torch.load`; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) and name_of(node.value) else ""


def broken_rules(tree: ast.AST, file: str) -> Iterator[str]:
    """What a file does that none may, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if module.partition(".")[0] in UNPICKLERS and file not in PICKLE_IMPORTERS:
                    yield f"{node.lineno}: imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in RUNS_TEXT or called in RUNS_A_SHELL:
            yield f"{node.lineno}: calls {called}"
        if called.startswith("pickle.") and called.rpartition(".")[2] in ("load", "loads"):
            yield f"{node.lineno}: calls {called}"
        if called == "torch.load" and not is_true(given.get("weights_only")):
            yield f"{node.lineno}: torch.load without weights_only=True"
        if called in ("torch.jit.load", "torch.package.PackageImporter", "torch.serialization.add_safe_globals"):
            yield f"{node.lineno}: calls {called}"
        if called in ("np.load", "numpy.load", "np.fromfile") and "allow_pickle" in given:
            yield f"{node.lineno}: {called} with allow_pickle"
        if called in UNSAFE_YAML or (called == "yaml.load" and name_of(given.get("Loader", node)) != "_RecipeLoader"):
            yield f"{node.lineno}: {called} without the recipes' own loader"
        if "shell" in given and not is_false(given["shell"]):
            yield f"{node.lineno}: a shell"
        if is_true(given.get("trust_remote_code")) or is_true(given.get("trust_repo")):
            yield f"{node.lineno}: runs code from a hub"
        if called in ("ssl._create_unverified_context",) or is_false(given.get("verify")):
            yield f"{node.lineno}: no check of certificates"


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_no_line_of_the_package_runs_what_a_file_says() -> None:
    assert len(FILES) > 100
    found = [
        f"{path.relative_to(SOURCE)}:{rule}"
        for path in FILES
        for rule in broken_rules(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(SOURCE)))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=chosen)",
        "torch.jit.load(path)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.full_load(text)",
        "subprocess.run(words, shell=True)",
        "subprocess.run(words, shell=chosen)",
        "os.system(words)",
        "eval(text)",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "httpx.get(address, verify=False)",
    ],
)
def test_the_rules_see_what_breaks_them(line: str) -> None:
    assert list(broken_rules(ast.parse(line), "data/some.py"))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True, mmap=True)",
        "yaml.load(text, Loader=_RecipeLoader)",
        "subprocess.run(words, check=True)",
        "model.eval()",
        "re.compile(pattern)",
    ],
)
def test_the_rules_let_pass_what_they_should(line: str) -> None:
    assert not list(broken_rules(ast.parse(line), "data/some.py"))


def test_the_recipes_loader_builds_plain_values_only() -> None:
    tree = ast.parse((SOURCE / "config" / "load.py").read_text(encoding="utf-8"))
    loader = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "_RecipeLoader")
    assert [name_of(base) for base in loader.bases] == ["yaml.SafeLoader"]


def test_the_unpickler_looks_nothing_up() -> None:
    """Its two ways to the outside only ever raise."""
    tree = ast.parse((SOURCE / "data" / "plain_pickle.py").read_text(encoding="utf-8"))
    methods = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for name in ("find_class", "persistent_load"):
        statements = [node for node in methods[name].body if not isinstance(node, ast.Expr)]
        assert [type(node) for node in statements] == [ast.Raise]
