"""Runs test files on a GPU so that a first run tells as much as it can: a fault that leaves a process without a device, a crash or a hang
ends one process, is put down to the test that did it, and the tests after it run in a new one.

Usage: python tools/gpu_tests.py FOLDER SECONDS [--limit SECONDS] [--alone] FILE[/SHARES]...

FILE/4 is shared out over four processes. Logs and journals come to FOLDER, the outcome to FOLDER/tests.json, which is written again after
every file. SECONDS are for all files together, ``--limit`` for each test; ``--alone`` runs one process at a time. The status is 1 where a
test failed, 2 where nothing did but the time was not enough. The same file is the plugin that pytest loads in those processes.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MOST_STARTS = 15  # of a file
OUT_OF_TIME = "out of time"
IN_PYTEST = "PYDLX_GPU_TESTS" in os.environ
# As it is before pytest catches what tests write.
STANDARD_ERROR = os.fdopen(os.dup(2), "w") if IN_PYTEST else sys.stderr

# ---- inside pytest: a journal of what began and how it ended ---------------------------------------------------------


def read(journal: Path) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]


class Plugin:
    def __init__(self, journal: Path, share: int, shares: int, limit: float) -> None:
        self.journal, self.share, self.shares, self.limit = journal, share, shares, limit
        self.outcome: dict[str, str] = {}

    def write(self, **entry: Any) -> None:
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        begun = {e["test"] for e in read(self.journal) if "test" in e}
        mine = [t for i, t in enumerate(items) if i % self.shares == self.share and t.nodeid not in begun]
        config.hook.pytest_deselected(items=[t for t in items if t not in set(mine)])
        items[:] = mine

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(test=nodeid)
        self.outcome = {}
        # By a thread that needs no lock of the interpreter's: one that waits for a kernel may hold it.
        faulthandler.dump_traceback_later(self.limit, exit=True, file=STANDARD_ERROR)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            lines = [line[2:] for line in report.longreprtext.splitlines() if line.startswith("E ")]
            self.outcome = {"outcome": "failed", "why": (lines or [report.longreprtext])[0].strip()[:300]}
        elif not self.outcome and (report.skipped or report.when == "call"):
            self.outcome = {"outcome": report.outcome}

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        faulthandler.cancel_dump_traceback_later()
        self.write(ended=nodeid, **self.outcome)
        if self.outcome.get("outcome") == "failed" and device_is_lost():
            os._exit(3)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.write(finished=int(exitstatus))


def device_is_lost() -> bool:
    """Whether nothing works on the device any more, as after an illegal access: only a new process has it back."""
    pydlx: Any = sys.modules.get("pydlx")
    if pydlx is None or not pydlx.cuda.is_available():
        return False
    for _ in range(2):  # the first call may report a bad index of the test that failed
        try:
            pydlx.cuda.synchronize()
        except pydlx.DeviceError:
            continue
        except (IndexError, ValueError):
            continue
        return False
    return True


def pytest_configure(config: Any) -> None:
    # Not for the processes that tests start.
    job = json.loads(os.environ.pop("PYDLX_GPU_TESTS"))
    config.pluginmanager.register(Plugin(Path(job["journal"]), job["share"], job["shares"], job["limit"]))


# ---- outside --------------------------------------------------------------------------------------------------------


def start(command: list[str], environment: dict[str, str], log: Path, seconds: float) -> int:
    """The status of a process with all its children, which end after so many seconds."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            return process.wait(timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            return -signal.SIGALRM
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_share(file: str, share: int, shares: int, folder: Path, limit: float, deadline: float) -> dict[str, Any]:
    name = Path(file).stem + (f"-{share}" if shares > 1 else "")
    journal, log = folder / f"{name}.journal", folder / f"{name}.log"
    for old in (journal, log):
        old.unlink(missing_ok=True)
    job = {"journal": str(journal.resolve()), "share": share, "shares": shares, "limit": limit}
    paths = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYDLX_GPU_TESTS": json.dumps(job), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "gpu_tests",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-q",
        "-rsf",
    ]
    command += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), str(ROOT / file)]
    results: dict[str, str] = {}
    failures: list[dict[str, str]] = []
    problem = ""
    begin = time.monotonic()
    for _ in range(MOST_STARTS):
        before = len(read(journal))
        status = start(command, environment, log, deadline - time.monotonic())
        entries = read(journal)
        news = entries[before:]
        began = [e["test"] for e in news if "test" in e]
        for e in news:
            if "ended" in e:
                results[e["ended"]] = e.get("outcome", "failed")
                if results[e["ended"]] == "failed":
                    failures.append({"test": e["ended"], "why": e.get("why", "")})
        out_of_time = status == -signal.SIGALRM
        if began and began[-1] not in results:
            hung = status == 1  # the status of a process that faulthandler ends
            how = OUT_OF_TIME if out_of_time else f"hung for {limit:.0f} s" if hung else f"the process died ({status})"
            results[began[-1]] = "died"
            failures.append({"test": began[-1], "why": how})
        if news and "finished" in news[-1]:
            if news[-1]["finished"] not in (0, 1, 5):
                problem = f"pytest ended with status {status}"
            break
        if not began or out_of_time:
            problem = OUT_OF_TIME if out_of_time else f"no test began; status {status}"
            break
    else:
        problem = f"given up after {MOST_STARTS} processes"
    seconds = round(time.monotonic() - begin, 1)
    return {
        "file": name,
        "counts": dict(Counter(results.values())),
        "problem": problem,
        "seconds": seconds,
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("files", nargs="+", metavar="FILE[/SHARES]")
    parser.add_argument("--limit", type=float, default=60)
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + args.seconds
    jobs = []
    for given in args.files:
        file, _, shares = given.partition(".py/")
        count = int(shares or 1)
        jobs += [(file.removesuffix(".py") + ".py", i, count) for i in range(count)]
    report: list[dict[str, Any]] = []
    lock = Lock()
    target = args.folder / "tests.json"
    if target.exists():  # of earlier calls, for other files
        ours = {Path(file).stem for file, _, _ in jobs}
        report = [r for r in json.loads(target.read_text(encoding="utf-8")) if r["file"].partition("-")[0] not in ours]

    def one(job: tuple[str, int, int]) -> int:
        result = run_share(*job, args.folder, args.limit, deadline)
        with lock:
            report.append(result)
            target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        counts = ", ".join(f"{n} {what}" for what, n in sorted(result["counts"].items()))
        print(f"{result['seconds']:7.1f} s  {result['file']}: {counts or 'nothing'} {result['problem']}", flush=True)
        for failure in result["failures"][:20]:
            print(f"           {failure['test'].rpartition('/')[2]}: {failure['why']}", flush=True)
        late = result["problem"] == OUT_OF_TIME
        wrong = [f for f in result["failures"] if f["why"] != OUT_OF_TIME]
        return 1 if wrong or (result["problem"] and not late) else 2 if late else 0

    # Together a process per two cores: each of them computes what is expected on the CPU.
    together = 1 if args.alone else max(1, min(8, (os.cpu_count() or 2) // 2))
    with ThreadPoolExecutor(together) as pool:
        statuses = set(pool.map(one, jobs))
    return 1 if 1 in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
