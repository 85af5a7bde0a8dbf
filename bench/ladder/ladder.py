"""The kernel ladders: compiles the steps, checks them against float64, times them, and prints what each has gained.

python bench/ladder/ladder.py gemm --json gemm.json --plot gemm.png
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from problems import FAMILIES, Array, Problem, aligned, problems

import pydlx
from pydlx.bench import facts, limits

HERE = Path(__file__).resolve().parent
FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-fopenmp")
# Largest difference from float64, relative to the root mean square of the result. A wrong index gives about 1.
TOLERANCE = 2e-4


class Step(ctypes.Structure):
    """A row of the table that a ladder exports: ``Step`` in ladder.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("idea", ctypes.c_char_p),
        ("run", ctypes.c_void_p),
        ("threads", ctypes.c_int),
    )


def compiler() -> str | None:
    """The C++ compiler, or None."""
    return next((found for name in ("g++", "c++") if (found := shutil.which(name))), None)


def build(family: str, folder: Path) -> ctypes.CDLL:
    """Compiles ``family``.cpp for this processor and loads it.

    Raises:
        RuntimeError: no compiler, or it refuses.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("[ladder] compiler: expected g++ on the path, found none; install GCC 11 or newer")
    library = folder / f"{family}.so"
    done = subprocess.run(
        [command, *FLAGS, str(HERE / f"{family}.cpp"), "-o", str(library)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"[ladder] {family}.cpp: expected to compile, got\n{done.stderr}")
    return ctypes.CDLL(str(library))


def steps_of(library: ctypes.CDLL, table: str = "steps") -> list[Step]:
    """The steps that a ladder exports."""
    count = ctypes.c_int.in_dll(library, f"{table[:-1]}_count").value
    return list((Step * count).in_dll(library, table))


def bind(step: Step, problem: Problem, output: Array) -> Callable[[], None]:
    """A call of ``step`` on the problem's arrays."""
    arrays = [*problem.inputs, output]
    kinds = [ctypes.c_int64] * len(problem.sizes) + [ctypes.c_void_p] * len(arrays)
    function = ctypes.CFUNCTYPE(None, *kinds)(step.run)
    arguments = (*problem.sizes, *(x.ctypes.data for x in arrays))
    return lambda: function(*arguments)


def error_of(got: Array, wanted: Array) -> float:
    """Largest difference relative to the root mean square of ``wanted``; NaN where a value is missing."""
    return float(np.abs(got - wanted).max() / np.sqrt(np.mean(wanted * wanted)))


def check(name: str, call: Callable[[], Any], output: Array | None, wanted: Array) -> float:
    """Runs a step and returns its error.

    Args:
        output: where the step writes; None when it returns a tensor.

    Raises:
        ArithmeticError: the result is wrong.
    """
    if output is not None:
        output.fill(np.nan)  # what a step forgets to write shows
    got = call()
    error = error_of(got.numpy() if output is None else output, wanted)
    if not error <= TOLERANCE:
        raise ArithmeticError(f"[ladder] {name}: expected an error of at most {TOLERANCE:g}, got {error:g}")
    return error


def shortest(calls: Sequence[Callable[[], Any]], rounds: int, slice_s: float) -> list[float]:
    """Shortest time of each call over alternating rounds, so that a slow phase of the machine meets all of them."""
    best = [float("inf")] * len(calls)
    for turn in range(rounds):
        for i, call in enumerate(calls):
            if turn >= 2 and best[i] > 0.5:
                continue  # two calls that long are enough
            time.sleep(0.005)  # threads of the step before go to sleep
            stop = time.perf_counter() + slice_s
            while True:
                start = time.perf_counter()
                call()
                now = time.perf_counter()
                best[i] = min(best[i], now - start)
                if now >= stop:
                    break
    return best


def climb(library: ctypes.CDLL, problem: Problem, peaks: dict[int, float], rounds: int, slice_s: float) -> Any:
    """Checks and times all steps of a ladder, and pydlx.

    Args:
        peaks: flop/s by number of threads; raised where this finds more, because other programs can only slow a
            measurement down.
    """
    output = aligned(*problem.output)
    rows: list[dict[str, Any]] = []
    calls: list[Callable[[], Any]] = []
    many = max(peaks)
    for step in steps_of(library, problem.table):
        name = step.name.decode()
        if name in problem.skip:
            continue
        call = bind(step, problem, output)
        row = {"step": name, "idea": step.idea.decode(), "threads": step.threads or many}
        row["error"] = check(name, call, output, problem.reference_value)
        rows.append(row)
        calls.append(call)
    tensors = [pydlx.from_numpy(x) for x in problem.inputs]
    for threads in sorted(peaks):
        call = with_threads(threads, problem.ours(pydlx, *tensors))
        row = {"step": "pydlx", "idea": problem.call, "threads": threads}
        row["error"] = check("pydlx", call, None, problem.reference_value)
        rows.append(row)
        calls.append(call)
    times = shortest(calls, rounds, slice_s)
    for threads, peak in measure_peaks().items():
        peaks[threads] = max(peaks[threads], peak)
    for row, seconds in zip(rows, times):
        row["seconds"] = seconds
        row["peak"] = problem.flops / seconds / peaks[row["threads"]]
    return {"title": problem.title, "flops": problem.flops, "peaks": dict(peaks), "rows": rows}


def with_threads(threads: int, call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` without gradients, on that many threads of pydlx."""

    def run() -> Any:
        if pydlx.get_num_threads() != threads:
            pydlx.set_num_threads(threads)
        with pydlx.no_grad():
            return call()

    return run


def table(result: dict[str, Any]) -> str:
    """The lines of a result; "factor" is over the row before, for pydlx over the ladder's best with as many threads."""
    lines = [
        f"\n{result['title']}: {result['flops'] * 1e-6:.0f} MFLOP; multiply-add peak in GFLOP/s: "
        + ", ".join(f"{1e-9 * v:.0f} on {n} thread{'s' * (n > 1)}" for n, v in result["peaks"].items()),
        f"{'step':<16} {'what changed':<38} {'threads':>7} {'time':>10} {'GFLOP/s':>8} {'of peak':>8} {'factor':>7} {'error':>8}",
    ]
    before: float | None = None
    for row in result["rows"]:
        if row["step"] == "pydlx":
            before = min(
                r["seconds"] for r in result["rows"] if r["step"] != "pydlx" and r["threads"] <= row["threads"]
            )
        row["factor"] = before / row["seconds"] if before else None
        factor = f"{row['factor']:.2f}x" if before else ""
        lines.append(
            f"{row['step']:<16} {row['idea']:<38} {row['threads']:>7} {1e3 * row['seconds']:>7.3f} ms "
            f"{result['flops'] / row['seconds'] * 1e-9:>8.1f} {100 * row['peak']:>6.1f} % {factor:>7} {row['error']:>8.1e}"
        )
        before = row["seconds"]
    return "\n".join(lines)


def measure_peaks() -> dict[int, float]:
    """Multiply-add peak in flop/s of one thread and of all."""
    found = limits.multiply_add_peaks(pydlx)
    return {1: found[0], facts.usable_cores(): found[1]}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the program."""
    parser.add_argument("family", nargs="?", choices=FAMILIES, help="the ladder to climb (default: all)")
    parser.add_argument("--check", action="store_true", help="small problems, compare with float64 only")
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds of timing (default 7)")
    parser.add_argument("--json", metavar="F", help="write the result to this file")
    parser.add_argument("--plot", metavar="F", help="draw a bar chart into this PNG file")


def run(args: argparse.Namespace) -> int:
    """Runs the program; the exit status is 1 when a step is wrong or does not compile."""
    families = [args.family] if args.family else list(FAMILIES)
    if args.plot:
        from pydlx.bench.plots import require_matplotlib

        require_matplotlib()
    report: dict[str, Any] = {"date": datetime.now(timezone.utc).isoformat(), "commit": facts.git_hash()}
    report |= {"machine": facts.machine(), "families": {}}
    with tempfile.TemporaryDirectory() as folder:
        for family in families:
            library = build(family, Path(folder))
            library.set_threads(facts.usable_cores())
            print(f"\n{family}: vectors of {ctypes.c_int.in_dll(library, 'lanes').value} floats", flush=True)
            if args.check:
                for problem in problems(family, small=True):
                    output = aligned(*problem.output)
                    for step in steps_of(library, problem.table):
                        name = step.name.decode()
                        error = check(name, bind(step, problem, output), output, problem.reference_value)
                        print(f"{problem.title}: {name}: error {error:.1e}")
                continue
            peaks = measure_peaks()
            results = []
            for problem in problems(family):
                results.append(climb(library, problem, peaks, args.rounds, 0.06))
                print(table(results[-1]), flush=True)
            report["families"][family] = {"problems": results}
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
    if args.plot and report["families"]:
        from chart import draw

        draw(report, Path(args.plot))
        print(f"wrote {args.plot}")
    return 0


def main() -> int:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(prog="ladder.py", description=__doc__.split("\n")[0])
    add_options(parser)
    try:
        return run(parser.parse_args())
    except (ArithmeticError, RuntimeError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
