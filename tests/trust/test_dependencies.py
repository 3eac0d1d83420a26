"""The audit of dependencies: it finds nothing wrong, it would find what is, and its page says what is pinned."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_dependencies", ROOT / "scripts" / "audit_dependencies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_dependency_is_pinned_and_has_a_licence_that_fits(audit: ModuleType) -> None:
    found = audit.rows()
    assert len(found) > 60
    # other versions than the pinned ones may be installed on purpose
    assert [row for row in found if any("constraints.txt says" not in problem for problem in row.problems)] == []


def test_the_page_has_the_pinned_versions(audit: ModuleType) -> None:
    text = audit.PAGE.read_text(encoding="utf-8").split(audit.BEGIN)[1].split(audit.END)[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    listed = {name: version for name, version, *_ in rows[1:]}
    pins = audit.pins()
    assert {name: pins[name].partition("+")[0] for name in listed} == {
        name: version.partition("+")[0] for name, version in listed.items()
    }
    core = {row.name for row in audit.rows() if row.needed_by == audit.CORE}
    assert {"torch", "av", "safetensors"} < core <= set(listed) | {name for name in core if name.startswith("nvidia")}


def test_what_is_wrong_is_found(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = audit.pins()
    monkeypatch.setattr(
        audit, "pins", lambda: {name: v for name, v in pins.items() if name != "pyyaml"} | {"av": "0.1"}
    )
    monkeypatch.setattr(audit, "ABANDONED", frozenset({"timm"}))
    monkeypatch.setattr(audit, "LICENCES", [pair for pair in audit.LICENCES if pair[1] != "BSD"])
    problems = {row.name: row.problems for row in audit.rows()}
    assert problems["pyyaml"] == ("not in constraints.txt",)
    assert "constraints.txt says 0.1" in problems["av"]
    assert problems["timm"] == ("abandoned",)
    assert "no licence in its metadata" in problems["jinja2"]


def test_a_silent_database_is_no_clean_bill(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["audit", "--advisories"])
    monkeypatch.setattr(audit, "ask_database", lambda: (0, 12, []))
    assert audit.main() == 3
    assert "NOT CHECKED, the database did not answer for any of 12 packages" in capsys.readouterr().out
    monkeypatch.setattr(audit, "ask_database", lambda: (12, 0, ["some 1.0: CVE-1"]))
    assert audit.main() == 1
