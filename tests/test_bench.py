"""The benchmark program: rows are well formed and run, results are honest about errors, --check knows slower from noise."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import types
from contextlib import contextmanager

import numpy as np
import pytest

import pydlx
from pydlx import cli
from pydlx.bench import limits, report, rows, runner
from pydlx.bench.inputs import Inputs
from pydlx.bench.suites import ON_REQUEST
from pydlx.bench.worker import Server, largest_error, samples_of

ELSEWHERE = tempfile.gettempdir()
LIMITS = {
    "threads": 2,
    "caches": {"l2": 1 << 20, "l3": 32 << 20},
    "fma": 4e11,
    "fma_one_thread": 2e11,
    "l2": {"read": 3e11, "copy": 2e11},
    "l3": {"read": 1e11, "copy": 6e10},
    "memory": {"read": 3e10, "copy": 2e10},
}
# The quickest row of every family that has small ones; together they take well under a second.
SMALL = (
    "gemm/matmul 7",
    "gemm/linear 64x400->120 (LeNet)",
    "gemm/batched 256 of 16x16x16",
    "conv/prime 5x5 13->17 31 b2 fwd+bwd",
    "conv/odd 3x3 37->41 19x23 b3",
    "attention/tiny 2x4x16 d16 fwd+bwd",
    "attention/short 32x8x32 d64 causal",
    "rnn/GRU b7 t19 37->53 fwd+bwd",
    "rnn/LSTM b7 t19 37->53",
    "norm/softmax 64x10",
    "norm/layer_norm 1000x37",
    "loss/cross_entropy 64x10 fwd+bwd",
    "pointwise/add 512x512",
    "reduce/sum 512x512",
    "index/embedding 10000x200, 700 tokens",
    "shape/clone 256x256",
    "sort/sort 1000",
    "pool/max_pool2d 2/2 64x6x28x28 fwd+bwd",
    "optim/AdamW, MLP",
    "optim/clip_grad_norm_, MLP",
)


def result(name, ratio, family="gemm", **more):
    return {"family": family, "name": name, "unit": "s", "ours": 1e-3, "peer": ratio * 1e-3, "ratio": ratio} | more


def a_report(*results):
    return {
        "schema": runner.SCHEMA,
        "date": "2026-01-02T03:04:05+00:00",
        "git": "0" * 40,
        "machine": {"cpu": "a processor"},
        "peer": "torch",
        "versions": {"ours": "pydlx 1", "peer": "torch 2"},
        "threads": 2,
        "seconds": 0.1,
        "limits": LIMITS,
        "rows": list(results),
    }


def test_rows_are_well_formed():
    everything = [row for family in rows.families() for row in rows.select(family)]
    assert len({row.key for row in everything}) == len(everything)
    assert {row.family for row in rows.select()} == set(rows.families()) - set(ON_REQUEST)
    for row in everything:
        assert callable(row.setup)
        assert all(math.isfinite(n) and n >= 0 for n in (row.flops, row.reads, row.writes, row.footprint)), row.key
        assert len(row.name) <= 60, row.key
        if row.family in ("gemm", "conv", "attention", "rnn"):
            assert row.flops > 0 and row.reads > 0, row.key
    assert rows.find(everything[-1].key).key == everything[-1].key


def test_select():
    assert all("lstm" in row.name.lower() for row in rows.select("rnn", "LSTM*"))
    assert [row.key for row in rows.select(None, "gemm/matmul 64")] == ["gemm/matmul 64"]
    with pytest.raises(ValueError, match="expected one of gemm, conv"):
        rows.select("gem")
    with pytest.raises(ValueError, match="no row matches"):
        rows.select("gemm", "*banana*")


@pytest.mark.parametrize("key", SMALL)
def test_a_row_agrees_with_its_float64_reference(key, tmp_path):
    server = Server("pydlx", pydlx.get_num_threads())
    path = str(tmp_path / "reference.npz")
    server.reference(key, path)
    prepared = server.prepare(key, path)
    assert prepared["error"] < 1e-4
    assert prepared["seconds"] > 0
    measured = server.measure(1e-4)
    assert measured["seconds"] > 0 and measured["samples"] >= 1


@pytest.mark.parametrize(("family", "glob"), [("breadth", "* float32*"), ("integers", "*")])
def test_every_row_agrees_with_its_float64_reference(family, glob):
    for row in rows.select(family, glob):
        got = row.setup(pydlx, Inputs(pydlx, row.key))()
        assert all(values.size for values in samples_of(got)), row.key
        if row.check:
            reference = samples_of(row.setup(pydlx, Inputs(pydlx, row.key, double=True))())
            assert largest_error(got, reference) < 3e-4, row.key


def test_an_error_is_seen():
    right = pydlx.tensor([3.0, -4.0])
    reference = samples_of((right, pydlx.tensor([1, 2])))
    assert largest_error((right, pydlx.tensor([1, 2])), reference) == 0
    assert largest_error((right, pydlx.tensor([1, 3])), reference) == pytest.approx(1 / math.sqrt(2.5))
    assert largest_error((right + 1, pydlx.tensor([1, 2])), reference) == pytest.approx(1 / math.sqrt(12.5))
    assert math.isnan(largest_error((right * float("nan"), pydlx.tensor([1, 2])), reference))
    assert largest_error((right[:1], pydlx.tensor([1, 2])), reference) == math.inf


def test_inputs_repeat_and_have_a_float64_twin():
    first, again, double = (Inputs(pydlx, "a/b", double=d) for d in (False, False, True))
    x, y, z = (i.normal(3, 5, scale=0.5, dtype="bfloat16") for i in (first, again, double))
    assert x.dtype == pydlx.bfloat16 and z.dtype == pydlx.float64
    assert np.array_equal(x.float().numpy(), y.float().numpy())
    assert np.array_equal(x.double().numpy(), z.numpy())
    assert sorted(first.permutation(9).tolist()) == list(range(9))
    module = double.load(pydlx.nn.Linear(4, 3))
    assert module.weight.dtype == pydlx.float64


def test_limits():
    compute = rows.Row("c", setup=None, flops=4e11, reads=4.0, writes=4.0)
    assert limits.shortest_time(compute, LIMITS) == (1.0, "fma")
    copy = rows.Row("m", setup=None, reads=1e9, writes=1e9)
    assert limits.shortest_time(copy, LIMITS) == (pytest.approx(0.1), "memory")
    read = rows.Row("r", setup=None, reads=1e6)
    assert limits.shortest_time(read, LIMITS) == (pytest.approx(1e6 / 3e11), "l2")
    assert limits.level_of(8 << 20, LIMITS) == "l3"
    disturbed = {**LIMITS, "fma": 2e11, "memory": {"read": 4e10, "copy": 1e10}}
    assert limits.better_of(LIMITS, disturbed) == {**LIMITS, "memory": {"read": 4e10, "copy": 2e10}}
    sizes = limits.caches()
    assert sizes["l2"] > 0 and sizes["l3"] > 0


def test_probes_measure_something():
    assert pydlx._C._probe_fma(10) >= 2 * 10 * 64 * 12 * 4
    source, target = pydlx.arange(4096, dtype=pydlx.float32), pydlx.zeros(4096)
    pydlx._C._probe_read(source, 2)
    pydlx._C._probe_copy(target, source, 2)
    assert pydlx.equal(source, target)
    with pytest.raises(ValueError, match="_probe_copy"):
        pydlx._C._probe_copy(pydlx.zeros(3), source, 1)
    with pytest.raises(ValueError, match="_probe_fma"):
        pydlx._C._probe_fma(-1)


def test_check_accepts_noise_and_finds_slower_rows():
    stored = a_report(result("a", 2.0), result("b", 1.0), result("c", 4.0, "conv"))
    assert report.check(a_report(result("a", 1.9), result("b", 1.02), result("c", 5.0, "conv")), stored) == []
    (problem,) = report.check(a_report(result("a", 2.0), result("b", 1.0), result("c", 2.0, "conv")), stored)
    assert problem.startswith("conv/c: ratio fell by 50 %, from 4 to 2")
    # a noisy row is allowed more
    assert report.check(a_report(result("c", 2.7, "conv", spread_ratio=0.2)), stored) == []
    # many rows a little slower: the family fails although no row does
    before = a_report(*(result(f"r{i}", 2.0) for i in range(10)))
    after = a_report(*(result(f"r{i}", 1.75) for i in range(10)))
    (problem,) = report.check(after, before)
    assert problem.startswith("gemm: geometric mean over 10 rows fell by 12 %")
    # other rows are no reason to fail, but nothing in common is
    assert report.check(a_report(result("a", 2.0), result("new", 0.1)), stored) == []
    assert report.check(a_report(result("new", 1.0)), stored) == ["no row of this run is in the stored result"]
    failed = {"family": "gemm", "name": "a", "unit": "s", "failed": "boom"}
    assert report.check(a_report(failed), stored) == ["gemm/a: failed: boom"]


def test_check_without_a_peer_compares_speeds():
    def alone(seconds):
        return {"family": "gemm", "name": "a", "unit": "s", "ours": seconds}

    assert report.check(a_report(alone(1.1e-3)), a_report(alone(1e-3))) == []
    (problem,) = report.check(a_report(alone(2e-3)), a_report(alone(1e-3)))
    assert "speed fell by 50 %" in problem


def test_reports_are_stored_and_read(tmp_path):
    stored = a_report(result("a", 2.0))
    path = tmp_path / "deep" / "r.json"
    report.save(stored, path)
    assert report.load(path) == stored
    path.write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        report.load(path)
    for broken in ([], {"schema": 99}, {**stored, "rows": [{"family": "gemm"}]}, {**stored, "limits": None}):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=r"\[bench\] .*expected"):
            report.load(path)


def test_table_and_summary():
    rated = result(
        "a", 2.0, flops=2e6, bytes=8e3, limit="fma", percent=42.4, error_ours=1e-7, spread_ours=0.01, spread_ratio=0.03
    )
    text = report.line(rated)
    assert len(text) == len(report.header())
    for part in ("1.00 ms", "2.00 ms", "2.00", "2.0 GFLOP/s", "42 % fma", "1.0e-07", "3 %"):
        assert part in text
    assert "failed: boom" in report.line({"family": "gemm", "name": "x", "unit": "s", "failed": "boom"})
    alone = {"family": "optim", "name": "x", "unit": "MB", "ours": 12.5, "spread_ours": 0.0}
    assert "12.5 MB" in report.line(alone)
    text = report.summary(a_report(result("a", 4.0), result("b", 0.25), result("c", 3.0, "conv")))
    assert "0.25  gemm/b" in text
    assert "gemm             2            1.00                 1   0.25" in text


def test_geometric_mean():
    assert report.geometric_mean([1, 4]) == pytest.approx(2)
    assert math.isnan(report.geometric_mean([]))


def test_shares_count_in_the_better_limits(monkeypatch):
    slow = {**LIMITS, "fma": 2e11}
    measured = iter([slow, LIMITS])

    class Side:
        name = "pydlx"

        def ask(self, what, **_):
            return next(measured)

    @contextmanager
    def sides(*_):
        yield [Side()]

    monkeypatch.setattr(runner, "_sides", sides)
    monkeypatch.setattr(runner, "_greet", lambda side: {"version": "0", "device": "cpu"})
    monkeypatch.setattr(runner, "_time", lambda *_: ({}, [[1.0], [1.0]]))
    row = rows.Row("c", setup=None, check=False, flops=1e11)
    seen = []
    stored = runner.run([row], peer=None, threads=2, done=lambda r: seen.append(r["percent"]))
    assert seen == [pytest.approx(50)]
    assert stored["limits"] == LIMITS and stored["rows"][0]["percent"] == pytest.approx(25)


def test_the_program_runs(tmp_path):
    path = tmp_path / "out.json"
    command = ["bench", "gemm", "--rows", "matmul 7", "--peer", "none", "--seconds", "0.02", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "pydlx.cli", *command], capture_output=True, text=True, timeout=120, cwd=ELSEWHERE
    )
    assert done.returncode == 0, done.stderr
    assert "matmul 7" in done.stdout
    stored = report.load(path)
    (row,) = stored["rows"]
    assert row["ours"] > 0 and row["error_ours"] < 1e-5 and row["limit"] in ("fma", "l2")
    assert stored["limits"]["fma"] > 1e9
    assert stored["versions"] == {"ours": f"pydlx {pydlx.__version__}"}


def test_charts(tmp_path, capsys):
    path = tmp_path / "r.json"
    stored = a_report(
        result("a", 2.0, flops=1e9, bytes=1e6, limit="fma"), result("b", 0.5, flops=1e6, bytes=1e6, limit="l2")
    )
    report.save(stored, path)
    assert cli.main(["bench", "--from", str(path), "--plot", str(tmp_path), "--check", str(path)]) == 0
    assert "no row is slower" in capsys.readouterr().out
    for name in ("roofline.png", "ratios.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_errors_of_the_command(capsys, tmp_path):
    for arguments, message in (
        (["bench", "cats"], "[bench] family: expected one of gemm"),
        (["bench", "gemm", "--rows", "nothing"], "no row matches"),
        (
            ["bench", "gemm", "--rows", "matmul 7", "--peer", "banana"],
            "[bench] --peer: expected one of torch, torch.compile, jax",
        ),
        (["bench", "--check", str(tmp_path / "absent.json")], "absent.json"),
    ):
        assert cli.main(arguments) == 1
        assert message in capsys.readouterr().err
    for arguments in (["bench", "--threads", "0"], ["bench", "--seconds", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2


def test_a_worker_reports_failures_and_death():
    worker = runner.Worker("pydlx", 1, runner._library_path())
    try:
        assert worker.ask("hello")["version"] == pydlx.__version__
        with pytest.raises(runner.WorkerError, match="no row"):
            worker.ask("prepare", row="gemm/none such")
        assert worker.alive
        worker._process.kill()
        with pytest.raises(runner.WorkerError, match="process ended with status -9"):
            worker.ask("hello")
    finally:
        worker.close()


def test_a_worker_without_its_device_is_replaced(monkeypatch):
    """After a kernel's illegal access every call of the process fails; the rows after it must not."""
    said = {"error": "DeviceError: an illegal memory access was encountered", "lost": True}
    monkeypatch.setattr(
        runner, "_LAUNCH", f"import sys\nfor _ in sys.stdin: print({json.dumps(json.dumps(said))}, flush=True)"
    )
    worker = runner.Worker("pydlx", 1)
    with pytest.raises(runner.WorkerError, match="illegal"):
        worker.ask("hello")
    assert not worker.alive

    server = Server("pydlx", 1)
    assert not server.is_lost()

    def fail():
        raise pydlx.DeviceError("an illegal memory access was encountered")

    server.device = "cuda"
    monkeypatch.setattr(server, "T", types.SimpleNamespace(cuda=types.SimpleNamespace(synchronize=fail)))
    assert server.is_lost()


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setattr(runner, "PEERS", ("no_such_library",))
    with pytest.raises(ImportError, match='pip install "no_such_library"'):
        runner.run([], peer="no_such_library", threads=1)


def test_a_peer_runs_the_same_row(capsys, tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "r.json"
    assert (
        cli.main(
            [
                "bench",
                "--rows",
                "loss/cross_entropy 64x10 fwd+bwd",
                "--threads",
                "1",
                "--seconds",
                "0.01",
                "--json",
                str(path),
            ]
        )
        == 0
    )
    (row,) = report.load(path)["rows"]
    assert row["reference"] == "torch float64"
    assert row["error_ours"] < 1e-5 and row["error_peer"] < 1e-5
    assert row["ratio"] > 0 and row["peer"] > 0


def test_numpy_is_a_peer_for_forward_rows(capsys, tmp_path):
    path = tmp_path / "r.json"
    command = ["bench", "--rows", "*/softmax 64x10*", "--peer", "numpy", "--seconds", "0.01", "--json", str(path)]
    assert cli.main(command) == 0
    (row,) = report.load(path)["rows"]
    assert row["error_peer"] < 1e-6
    assert row["reference"] == "pydlx float64"


def test_an_interrupted_run_keeps_its_rows(monkeypatch, capsys, tmp_path):
    measure = runner._measure

    def once(row, *rest):
        if row.name == "matmul 8":
            return measure(row, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_measure", once)
    path = tmp_path / "r.json"
    command = ["bench", "gemm", "--rows", "matmul [18]*", "--peer", "none", "--seconds", "0.01", "--json", str(path)]
    assert cli.main(command) == 130
    assert [row["name"] for row in report.load(path)["rows"]] == ["matmul 8"]
