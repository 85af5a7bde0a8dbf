"""The console command."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest

import pydlx
from pydlx import cli

# Away from the source tree, whose pydlx/ has no extension module: children must import the installed package.
ELSEWHERE = tempfile.gettempdir()


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pydlx.cli", *arguments], capture_output=True, text=True, timeout=300, cwd=ELSEWHERE
    )


def test_info(capsys):
    assert cli.main(["info"]) == 0
    table = capsys.readouterr().out
    assert "version" in table
    assert pydlx.__version__ in table
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["threads"] == pydlx.get_num_threads()
    for key, value in pydlx.__config__.info().items():
        assert json.loads(json.dumps(facts[key])) == json.loads(json.dumps(value, default=str))


def test_info_as_a_process():
    done = run("info")
    assert done.returncode == 0, done.stderr
    assert pydlx.__version__ in done.stdout
    assert pydlx.__config__.show().splitlines()


@pytest.mark.parametrize("arguments", [[], ["fly"], ["demo"], ["demo", "cats"], ["demo", "digits", "--epochs", "0"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: pydlx" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "info" in text
    assert "demo" in text


def test_mendable_errors_have_no_traceback(capsys, monkeypatch, tmp_path):
    from pydlx.demos import digits

    def missing(module, purpose):
        raise ImportError(f"[pydlx.train] {purpose} needs {module}")

    monkeypatch.setattr(digits, "require", missing)
    assert cli.main(["demo", "digits", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("pydlx: [pydlx.train] the digits demo needs matplotlib")


def test_commands_can_be_added(monkeypatch, capsys):
    def add(commands):
        commands.add_parser("hello").set_defaults(run=lambda args: print("hi") or 7)

    monkeypatch.setattr(cli, "COMMANDS", [*cli.COMMANDS, add])
    assert cli.main(["hello"]) == 7
    assert capsys.readouterr().out == "hi\n"
