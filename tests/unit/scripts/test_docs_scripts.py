"""Pages and pictures that scripts write are what the scripts would write now."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

SCRIPTS = Path(__file__).parents[3] / "scripts"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_pictures_are_drawn_from_todays_numbers() -> None:
    script = load_script("draw_docs")
    pictures = script.pictures()
    assert sorted(pictures) == sorted(path.name for path in script.IMAGES.glob("*.svg"))
    rows = json.loads(script.LADDER.read_text(encoding="utf-8"))["rows"]
    for name, content in pictures.items():
        assert (script.IMAGES / name).read_text(encoding="utf-8") == content, "run scripts/draw_docs.py"
        ElementTree.fromstring(content)
    for mode in ("fast", "balanced", "lean", "smallest"):
        assert f">{rows['b16']['cells'][mode]['gib']:.1f} GiB<" in pictures["memory.svg"]


def test_bars_are_as_long_as_their_numbers() -> None:
    script = load_script("draw_docs")
    cell = json.loads(script.LADDER.read_text(encoding="utf-8"))["rows"]["b16"]["cells"]["fast"]
    root = ElementTree.fromstring(script.memory())
    colour = script.CAUSES["kept in the side network"][0]
    lengths = [float(part.get("width", 0)) for part in root if part.get("fill") == colour and part.get("y") != "50"]
    assert abs(lengths[0] - 690 * cell["by_cause_gib"]["saved side"] / cell["gib"]) < 0.1


def test_the_page_of_results_names_every_file() -> None:
    script = load_script("write_results_page")
    page = script.page()
    assert script.PAGE.read_text(encoding="utf-8") == page, "run scripts/write_results_page.py"
    for path in script.RESULTS.glob("*.json"):
        assert f"| `{path.name}` |" in page
