"""tools/gpu_tests.py: what ends a process is put down to the test that did it, and the tests after it run all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools/gpu_tests.py"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="needs the sources")

PROGRAM = """
import os, time
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2
def test_crashes(): os.abort()
def test_hangs(): time.sleep(1000)
@pytest.mark.parametrize("i", range(3))
def test_loses_the_device(i, monkeypatch):
    import gpu_tests
    if i == 1:
        gpu_tests.device_is_lost = lambda: True
        assert False, "illegal access"
def test_is_skipped(): pytest.skip("no reason")
def test_comes_last(): pass
"""


@pytest.mark.parametrize("shares", [1, 2])
def test_everything_runs_and_the_guilty_are_named(tmp_path, shares):
    file = tmp_path / "test_some.py"
    file.write_text(PROGRAM)
    # Starting pytest takes seconds where many processes share a processor; a test that hangs is given five of its own.
    command = [sys.executable, str(TOOL), str(tmp_path / "out"), "100", f"{file}/{shares}", "--limit", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    parts = json.loads((tmp_path / "out/tests.json").read_text())
    assert len(parts) == shares and not any(p["problem"] for p in parts)
    counts = {what: sum(p["counts"].get(what, 0) for p in parts) for what in ("passed", "failed", "died", "skipped")}
    assert counts == {"passed": 4, "failed": 2, "died": 2, "skipped": 1}
    why = {f["test"].rpartition("::")[2]: f["why"] for p in parts for f in p["failures"]}
    assert why["test_fails"] == "assert 1 == 2"
    assert why["test_crashes"] == "the process died (-6)"
    assert why["test_hangs"] == "hung for 5 s"
    assert "illegal access" in why["test_loses_the_device[1]"]
    assert "test_hangs" in "".join(p.read_text() for p in tmp_path.glob("out/*.log"))  # the traceback


def run_tool(folder, seconds, source):
    """The exit status of the tool with a file of tests, and what it says of that file."""
    file = folder / "test_only.py"
    file.write_text(source)
    command = [sys.executable, str(TOOL), str(folder / "out"), str(seconds), str(file)]
    status = subprocess.run(command, capture_output=True, timeout=120).returncode
    (part,) = json.loads((folder / "out/tests.json").read_text())
    return status, part


def test_a_file_that_cannot_be_loaded_is_a_problem(tmp_path):
    status, part = run_tool(tmp_path, 100, "import nothing_of_this_name\n")
    assert status == 1 and part["problem"].startswith("pytest ended with status")


def test_time_is_up(tmp_path):
    status, part = run_tool(tmp_path, 8, "import time\ndef test_slow(): time.sleep(1000)\n")
    assert status == 2 and part["problem"] == "out of time"
