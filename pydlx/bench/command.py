"""``pydlx bench``: options, progress, and the exit status."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import report as reports
from .facts import usable_cores
from .rows import families, select
from .runner import run

__all__ = ["add_options", "run_command"]


def _positive_seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"expected seconds between 0 and 600, got {text}")
    return value


def _thread_count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 256:
        raise argparse.ArgumentTypeError(f"expected 1 to 256 threads, got {text}")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``pydlx bench``."""
    parser.add_argument("family", nargs="?", help="family of rows (default: all); --list shows them")
    parser.add_argument(
        "--peer",
        default="torch",
        help="torch (default), torch.compile, jax, mlx, numpy, none, or a folder that holds another build of pydlx",
    )
    parser.add_argument(
        "--threads", type=_thread_count, default=None, help="threads of each library (default: all cores)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where both libraries compute (default cpu); cuda compares with torch only",
    )
    parser.add_argument("--rows", metavar="GLOB", help='only rows whose name matches, such as "*1x1*"')
    parser.add_argument(
        "--seconds", type=_positive_seconds, default=0.3, help="time spent on timing each row (default 0.3)"
    )
    parser.add_argument("--json", metavar="F", help="write the result to this file")
    parser.add_argument("--plot", metavar="DIR", help="draw roofline.png and ratios.png into this folder")
    parser.add_argument("--check", metavar="STORED", help="compare with a stored result; exit status 1 when slower")
    parser.add_argument(
        "--from", dest="stored", metavar="F", help="take the result from this file instead of measuring"
    )
    parser.add_argument("--list", action="store_true", help="list families and rows, and stop")


@contextmanager
def _bar(total: int) -> Any:
    """A function that prints a line above a tqdm bar, or just prints where there is no tqdm or no terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm is None or not sys.stderr.isatty():
        yield lambda text, advance: print(text, flush=True)
        return
    with tqdm(total=total, leave=False, unit="row", dynamic_ncols=True) as bar:

        def show(text: str, advance: int) -> None:
            bar.write(text, file=sys.stdout)
            bar.update(advance)

        yield show


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.device == "cuda" and args.peer not in ("torch", "none"):
        raise ValueError(f"[bench] --peer: expected torch or none with --device cuda, got {args.peer!r}")
    rows = [row for row in select(args.family, args.rows) if args.device == "cpu" or row.unit == "s"]
    threads = args.threads or usable_cores()
    peer = None if args.peer == "none" else args.peer
    print(
        f"{len(rows)} rows, {threads} threads, ratio = time of {peer or 'nobody'} / time of pydlx; spread: half the range over the rounds"
    )
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * usable_cores():
        print(f"other programs are running (load {os.getloadavg()[0]:.1f}): expect noise", file=sys.stderr)
    current: list[str] = []
    with _bar(len(rows)) as show:

        def done(row: dict[str, Any]) -> None:
            if current != [row["family"]]:
                current[:] = [row["family"]]
                show(f"\n{row['family']}\n{reports.header()}", 0)
            show(reports.line(row), 1)

        return run(rows, peer=peer, threads=threads, seconds=args.seconds, device=args.device, done=done)


def run_command(args: argparse.Namespace) -> int:
    """Runs ``pydlx bench``; the exit status is 1 when --check finds rows slower than stored."""
    if args.list:
        for name in [args.family] if args.family else families():
            print(f"{name}\n" + "\n".join(f"  {row.name}" for row in select(name, args.rows)))
        return 0
    stored = reports.load(args.check) if args.check else None  # a bad file is told before minutes of measuring
    if args.plot:
        from . import plots

        plots.require_matplotlib()
    report = reports.load(args.stored) if args.stored else _measure(args)
    print(reports.summary(report))
    if args.json:
        reports.save(report, args.json)
    if args.plot:
        for path in plots.draw(report, Path(args.plot)):
            print(f"wrote {path}")
    if report.get("interrupted"):
        print("interrupted: these are the rows so far", file=sys.stderr)
        return 130
    if stored is None:
        return 0
    problems = reports.check(report, stored)
    print("\n" + ("\n".join(problems) if problems else f"no row is slower than in {args.check} beyond the noise"))
    return 1 if problems else 0
