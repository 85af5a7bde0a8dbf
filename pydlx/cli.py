"""The console command ``pydlx``.

A command is a function that takes the sub-parsers, adds its own parser with its options, and sets ``run`` to a function
of the parsed arguments that returns the exit status. To add a command, write such a function and list it in
``COMMANDS``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["COMMANDS", "main"]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return value


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="show version, CPU features, threads, BLAS, CUDA and build options")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=_run_info)


def _run_info(args: argparse.Namespace) -> int:
    import pydlx

    from . import __config__
    from .version import __version__

    facts: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **__config__.cpu(),
        **__config__.info(),
        "threads": pydlx.get_num_threads(),
        "cuda_available": pydlx.cuda.is_available(),
    }
    if args.json:
        print(json.dumps(facts, indent=2, default=str))
        return 0
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):<{width}}  {_readable(value)}")
    return 0


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_readable(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="train a small model on real data")
    demos = parser.add_subparsers(dest="demo", required=True, metavar="NAME")
    digits = demos.add_parser("digits", help="convolutional network on scikit-learn's handwritten digits")
    digits.add_argument(
        "--seed", type=int, default=0, help="seed of the split, the weights and the augmentation (default 0)"
    )
    digits.add_argument("--epochs", type=_positive, default=None, help="epochs at most")
    digits.add_argument(
        "--out", default="runs/digits", help="folder for metrics, pictures and the model (default runs/digits)"
    )
    digits.add_argument("--threads", type=_positive, default=None, help="CPU threads (default: all)")
    digits.add_argument("--quiet", action="store_true", help="no progress bar")
    digits.set_defaults(run=_run_digits)


def _run_digits(args: argparse.Namespace) -> int:
    from .demos import digits

    options = {} if args.epochs is None else {"epochs": args.epochs}
    digits.run(digits.Settings(seed=args.seed, out=args.out, threads=args.threads, progress=not args.quiet, **options))
    return 0


def _add_bench(commands: Any) -> None:
    from .bench import command

    parser = commands.add_parser("bench", help="measure pydlx beside PyTorch or another peer")
    command.add_options(parser)
    parser.set_defaults(run=command.run_command)


COMMANDS: list[Callable[[Any], None]] = [_add_info, _add_demo, _add_bench]


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(prog="pydlx", description="A deep-learning engine with PyTorch's names.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except (ImportError, OSError, ValueError) as error:  # what the user can mend: no traceback
        print(f"pydlx: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pydlx: interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
