"""The pages are true: their Python runs, their links lead somewhere, every page is in the index."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import pydlx

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.skipif(not PAGES[0].exists(), reason="the pages are in the repository, not in the wheel")


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=lambda page: page.name)
def test_code_runs(page, tmp_path, monkeypatch):
    """All blocks of a page, one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, block in enumerate(python_blocks(page), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    used = [v for v in names.values() if getattr(v, "__name__", "").startswith("pydlx")]
    assert used, f"{page.name}: its blocks never import the library"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_is_said_to_be_missing_is_missing():
    page = (ROOT / "docs" / "differences.md").read_text()
    names = re.findall(r"`(?:torch\.)?(\w+)`", page.split("## Not there")[1])
    assert "compile" in names
    assert [name for name in names if hasattr(pydlx, name)] == []


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [p.name for p in PAGES if p.parent.name == "docs" and p.name != "index.md" and f"({p.name})" not in index]
    assert not missing


def misses(aims, row):
    aim = aims.aim_of(row)
    return aim is not None and aim[0] in row and row[aim[0]] < aim[1]


def test_measured_tables_are_those_of_the_stored_run():
    """docs/performance.md is written by bench/aims.py from bench/results/cpu.json."""
    spec = importlib.util.spec_from_file_location("aims", ROOT / "bench" / "aims.py")
    aims = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(aims)
    report = json.loads((ROOT / "bench" / "results" / "cpu.json").read_text())
    page = (ROOT / "docs" / "performance.md").read_text()
    for name, text in {"suite": aims.suite_text(report), "aims": aims.aims_text(report)}.items():
        assert aims.replace(page, name, text) == page, f"run python bench/aims.py --write (section {name})"
    unexplained = [row["name"] for row in report["rows"] if misses(aims, row) and not aims.reason_of(row)]
    assert not unexplained, "say in REASONS of bench/aims.py what keeps these rows from their aims"
    assert aims.aim_of({"family": "rnn", "name": "GRU b1 t64 256->256"}) == ("ratio", 4.0)
    assert aims.aim_of({"family": "conv", "name": "VGG 3x3 64->64 224 b1 fwd+bwd"}) == ("ratio", 1.6)
    assert aims.aim_of({"family": "conv", "name": "VGG 3x3 3->64 224 b1"}) is None
    with pytest.raises(ValueError, match="expected the lines"):
        aims.replace(page, "weather", "")
