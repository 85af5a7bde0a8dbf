"""Runs rows: one process per library, one process at a time, in alternating rounds."""

from __future__ import annotations

import datetime
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import facts
from . import limits as machine_limits
from .rows import Row

__all__ = ["PEERS", "Worker", "WorkerError", "run"]

PEERS = ("torch", "torch.compile", "jax", "mlx", "numpy")
SCHEMA = 1
ROUNDS = 5
EXTRA = 3  # times as many rounds at most, on a machine that does other things too
RESTLESS = 0.05
# Seconds after which a silent worker is given up, by device. A row takes a GPU no minute: its kernel hangs.
_PATIENCE = {"cpu": 300.0, "cuda": 60.0}
_PACKAGE = Path(__file__).resolve().parent

# The benchmark package alone, under a name of its own: importing it as pydlx.bench would load pydlx into the peer's
# process, and two thread pools fight.
_LAUNCH = """
import importlib.util, sys
folder, path, library, threads, device = sys.argv[1:]
if path: sys.path.insert(0, path)
spec = importlib.util.spec_from_file_location("pydlx_bench", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["pydlx_bench"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from pydlx_bench.worker import main
main(library, int(threads), device)
"""


class WorkerError(ChildProcessError):
    """A row failed in a worker, or the worker died."""


class Worker:
    """A child process that holds one library.

    Args:
        library: "pydlx" or a peer's name. threads: how many threads it may use.
        path: folder to import the library from, before all others. device: "cpu" or "cuda".
    """

    def __init__(self, library: str, threads: int, path: str = "", device: str = "cpu") -> None:
        self.name, self.threads, self.path, self.device = library, threads, path, device
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as long as we
        count = str(threads)
        names = ("OMP", "MKL", "OPENBLAS", "PYDLX", "VECLIB_MAXIMUM", "NUMEXPR")
        # A pinned thread cannot end up sharing a core with another of its pool, where spinning waits last whole
        # scheduler slices: without this a loaded machine shows times of 8 and 16 ms for anything.
        pinned = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"} if threads <= facts.usable_cores() else {}
        environment = {**pinned, **os.environ, **{f"{name}_NUM_THREADS": count for name in names}}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(_PACKAGE), path, library, count, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            env=environment,
        )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer.

        Raises:
            WorkerError: the command failed, or the process died, lost its device or said nothing for minutes.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
            ready = select.select([self._process.stdout], [], [], _PATIENCE[self.device])[0]
            line = self._process.stdout.readline() if ready else None
        except (BrokenPipeError, OSError):
            line = ""
        if not line:
            self.close()
            self._log.seek(0)
            tail = " ".join(self._log.read()[-400:].split())
            reason = f"ended with status {self._process.returncode}" if line == "" else "gave no answer"
            raise WorkerError(f"the {self.name} process {reason}: {tail or 'no message'}")
        reply: dict[str, Any] = json.loads(line)
        if reply.get("lost"):
            self.close()
        if "error" in reply:
            raise WorkerError(reply["error"])
        answer: dict[str, Any] = reply["ok"]
        return answer

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(timeout=5)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()


class _Side:
    """One library during a run; a dead worker is replaced before the next row."""

    def __init__(self, library: str, threads: int, path: str = "", device: str = "cpu") -> None:
        self.name, self.threads, self.path, self.device = library, threads, path, device
        self.worker: Worker | None = None

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        if self.worker is None or not self.worker.alive:
            self.worker = Worker(self.name, self.threads, self.path, self.device)
        return self.worker.ask(command, **arguments)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def _library_path() -> str:
    """The folder that this pydlx comes from, so that the worker measures the same one."""
    return str(_PACKAGE.parents[1])


@contextmanager
def _sides(peer: str | None, threads: int, device: str) -> Iterator[list[_Side]]:
    sides = [_Side("pydlx", threads, _library_path(), device)]
    if peer is not None:
        folder = Path(peer)
        if peer in PEERS:
            sides.append(_Side(peer, threads, device=device))
        elif (folder / "pydlx").is_dir():
            sides.append(_Side("pydlx", threads, str(folder.resolve()), device))
        else:
            raise ValueError(
                f"[bench] --peer: expected one of {', '.join(PEERS)} or a folder that holds another pydlx/, got {peer!r}"
            )
    try:
        yield sides
    finally:
        for side in sides:
            side.close()


def _greet(side: _Side) -> dict[str, Any]:
    try:
        return side.ask("hello")
    except WorkerError as error:
        if "ModuleNotFoundError" in str(error) and side.name in PEERS:
            package = "torch==2.13.0" if side.name.startswith("torch") else side.name
            raise ImportError(
                f"[bench] --peer: {side.name} is not installed ({error}); install it with "
                f'pip install "{package}", or run with --peer none'
            ) from None
        raise ImportError(f"[bench] {side.name} cannot be used: {error}") from None


def _time(
    row: Row, sides: Sequence[_Side], seconds: float, reference: str | None
) -> tuple[dict[str, Any], list[list[float]]]:
    """Errors of every side, and per round the shortest time of every side."""
    errors: dict[str, Any] = {}
    slowest = 0.0
    for name, side in zip(("ours", "peer"), sides):
        try:
            prepared = side.ask("prepare", row=row.key, reference=reference)
        except WorkerError as error:
            raise WorkerError(f"{side.name}: {error}") from None
        errors[f"error_{name}"] = prepared["error"]
        slowest = max(slowest, prepared["seconds"])
    planned = ROUNDS if slowest * 2 * ROUNDS * len(sides) < 4 * seconds else 3
    share = seconds / (planned * len(sides))
    rounds: list[list[float]] = []
    while len(rounds) < planned or (len(rounds) < EXTRA * planned and _restless(rounds)):
        rounds.append([side.ask("measure", seconds=share)["seconds"] for side in sides])
    return errors, _quieter(rounds, planned)


def _restless(rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the quietest half of the rounds still disagrees, so that more rounds are worth their time."""
    return any(_spread(times) > RESTLESS for times in zip(*_quieter(rounds, (len(rounds) + 1) // 2)))


def _quieter(rounds: Sequence[Sequence[float]], count: int) -> list[list[float]]:
    """The ``count`` rounds in which all libraries together were fastest: other programs only ever make a round slower."""
    return [list(times) for times in sorted(rounds, key=lambda times: sum(map(math.log, times)))[:count]]


def _values(row: Row, sides: Sequence[_Side]) -> list[list[float]]:
    """Per round the number that the row itself measures on every side, in a new process if it asks for one."""
    rounds = []
    for _ in range(2):
        numbers = []
        for side in sides:
            numbers.append(side.ask("value", row=row.key)["value"])
            if row.fresh:
                side.close()
        rounds.append(numbers)
    return rounds


def _spread(values: Sequence[float]) -> float:
    """Half the distance between the largest and the smallest, relative to the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / (2 * middle) if middle else 0.0


def _measure(row: Row, sides: Sequence[_Side], seconds: float, limits: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"family": row.family, "name": row.name, "unit": row.unit}
    with tempfile.TemporaryDirectory() as folder:
        if row.unit != "s":
            rounds = _values(row, sides)
        else:
            reference = None
            if row.check:
                # float64 in the peer where it can: an answer that does not come from our own kernels
                judge = next((side for side in reversed(sides) if side.name in ("torch", "pydlx")), sides[0])
                reference = f"{folder}/reference.npz"
                judge.ask("reference", row=row.key, path=reference)
                result["reference"] = f"{judge.name} float64"
            errors, rounds = _time(row, sides, seconds, reference)
            result |= errors
    for index, name in enumerate(("ours", "peer")[: len(sides)]):
        values = [numbers[index] for numbers in rounds]
        result[name], result[f"spread_{name}"] = statistics.median(values), _spread(values)
    if len(sides) > 1 and row.rated:
        ratios = [numbers[1] / numbers[0] if numbers[0] else float("nan") for numbers in rounds]
        result["ratio"], result["spread_ratio"] = statistics.median(ratios), _spread(ratios)
    if row.unit == "s":
        result |= {"flops": row.flops, "bytes": row.reads + row.writes}
    return result | _share(row, result, limits)


def _share(row: Row, result: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Which limit of the machine holds for a row, and the percent of it that a result reaches."""
    if row.unit != "s" or "failed" in result or not (row.flops or row.reads or row.writes):
        return {}
    least, limit = machine_limits.shortest_time(row, limits)
    share = {"limit": limit, "percent": 100 * least / result["ours"]}
    return share | ({"percent_peer": 100 * least / result["peer"]} if "peer" in result else {})


def run(
    rows: Sequence[Row],
    *,
    peer: str | None = "torch",
    threads: int,
    seconds: float = 0.3,
    device: str = "cpu",
    done: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Measures rows and returns everything worth keeping, ready for JSON.

    Args:
        rows: what to run. peer: a library of ``PEERS``, a folder that holds another build of pydlx, or None for pydlx
            alone. threads: threads of each library. seconds: time spent per row on timing, both libraries together.
        device: "cpu" or "cuda", for both libraries.
        done: called with every finished row. A row that fails on a side has "failed" instead of numbers. When the user
            interrupts, the rows so far are returned, and "interrupted" is set. The limits are measured before and after all
        rows, and what is returned counts in the better ones, which "done" does not know yet.

    Raises:
        ImportError: the peer is not installed or cannot be loaded. ValueError: unknown peer.
    """
    with _sides(peer, threads, device) as sides:
        hellos = [_greet(side) for side in sides]

        def measured_limits() -> dict[str, Any]:
            found: dict[str, Any] = sides[0].ask("limits", seconds=min(0.25, seconds))
            return found

        limits = measured_limits()
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "git": facts.git_hash(),
            "machine": facts.machine(),
            "peer": peer,
            "versions": {
                ("ours", "peer")[i]: f"{side.name} {hello['version']}"
                for i, (side, hello) in enumerate(zip(sides, hellos))
            },
            "threads": threads,
            "device": hellos[0]["device"],
            "seconds": seconds,
            "limits": limits,
            "rows": [],
        }
        for row in rows:
            try:
                result = _measure(row, sides, seconds, limits)
            except WorkerError as error:
                result = {"family": row.family, "name": row.name, "unit": row.unit, "failed": str(error)}
            except KeyboardInterrupt:  # what has been measured is kept
                report["interrupted"] = True
                break
            report["rows"].append(result)
            done(result)
        if "interrupted" not in report:
            with suppress(WorkerError, KeyboardInterrupt):
                report["limits"] = machine_limits.better_of(limits, measured_limits())
            for row, result in zip(rows, report["rows"]):
                result |= _share(row, result, report["limits"])
        return report
