"""The child process: prepares rows of one library and times them when asked.

One JSON object per line comes in on standard input and one goes out on the original standard output; whatever the
library prints goes to standard error. The process stays alive between rounds, waiting on the pipe without using the
processor.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .inputs import Inputs
from .rows import find

__all__ = ["Server", "main"]

# Seconds; shorter calls are timed in groups so that reading the clock, or waiting for a GPU once, does not count.
SHORTEST = {"cpu": 50e-6, "cuda": 5e-3}
SAMPLES = 1 << 20  # values of each output that are compared with the reference


def load_library(name: str) -> Any:
    """The module that rows see as ``T``; peers without PyTorch's names come through an adapter."""
    if name in ("torch", "pydlx"):
        return importlib.import_module(name)
    return importlib.import_module(f".peers.{name.replace('.', '_')}_peer", __package__)


def samples_of(result: Any) -> list[np.ndarray[Any, Any]]:
    """Up to a million evenly spread values of every floating output, in float64."""
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    found = []
    for output in outputs:
        if hasattr(output, "detach"):
            flat = output.detach().reshape(-1)
            values = flat[:: max(1, flat.numel() // SAMPLES)]
            if str(values.dtype).endswith("bfloat16"):  # NumPy has no such type
                values = values.float()
            values = values.cpu().numpy()
        else:
            values = np.asarray(output).reshape(-1)
            values = values[:: max(1, values.size // SAMPLES)]
        found.append(np.asarray(values, dtype=np.float64))
    return found


def largest_error(result: Any, reference: list[np.ndarray[Any, Any]]) -> float:
    """Largest difference over all outputs, each relative to the root mean square of its reference."""
    worst = 0.0
    for got, wanted in zip(samples_of(result), reference, strict=True):
        if got.shape != wanted.shape:
            return float("inf")
        if wanted.size == 0:
            continue
        both_infinite = np.isinf(wanted) & (got == wanted)
        difference = np.abs(np.where(both_infinite, 0.0, got) - np.where(both_infinite, 0.0, wanted))
        scale = float(np.sqrt(np.mean(np.square(wanted[np.isfinite(wanted)], dtype=np.float64)))) or 1.0
        error = float(np.max(difference)) / scale
        worst = error if error != error else max(worst, error)
    return worst


class Server:
    """The commands; each is a method that takes keywords and returns something JSON can hold."""

    def __init__(self, library: str, threads: int, device: str = "cpu") -> None:
        self.T = load_library(library)
        self.T.set_num_threads(threads)
        self.device = device
        if device != "cpu":  # modules and factory functions follow
            self.T.set_default_device(device)
        self.wrap: Callable[[Any], Any] = getattr(self.T, "bench_step", lambda step: step)
        self.step: Callable[[], Any] | None = None
        self.calls = 1

    def hello(self) -> dict[str, Any]:
        """Version, where the library came from, and what it computes on."""
        where = "cpu" if self.device == "cpu" else str(self.T.cuda.get_device_name())
        return {"version": str(self.T.__version__), "file": str(getattr(self.T, "__file__", "")), "device": where}

    def _wait(self) -> None:
        """Until the device has done everything that was asked."""
        if self.device != "cpu":
            self.T.cuda.synchronize()

    def is_lost(self) -> bool:
        """Whether the device works no more in this process, as after a kernel's illegal access."""
        try:
            self._wait()
        except Exception:
            return True
        return False

    def _make(self, row: str, double: bool = False) -> Callable[[], Any]:
        self.drop()
        step: Callable[[], Any] = self.wrap(
            find(row).setup(self.T, Inputs(self.T, row, double=double, device=self.device))
        )
        return step

    def reference(self, row: str, path: str) -> dict[str, Any]:
        """Runs the row in float64 and stores samples of its outputs."""
        np.savez(path, *samples_of(self._make(row, double=True)()))
        return {}

    def prepare(self, row: str, reference: str | None = None) -> dict[str, Any]:
        """Builds the row's inputs, runs it once, compares with the reference, and finds how long a call takes."""
        step = self._make(row)
        result = step()
        error = None
        if reference is not None:
            with np.load(reference) as stored:
                error = largest_error(result, [stored[name] for name in stored.files])
        del result
        once, begin = float("inf"), time.perf_counter()
        while True:
            start = time.perf_counter()
            step()
            self._wait()
            stop = time.perf_counter()
            once = min(once, stop - start)
            if stop - begin > 1e-3:
                break
        self.step, self.calls = step, max(1, round(SHORTEST[self.device] / max(once, 1e-7)))
        return {"seconds": once, "error": error}

    def measure(self, seconds: float) -> dict[str, Any]:
        """The shortest of as many samples as fit ``seconds``, after calls that only warm caches and threads up."""
        assert self.step is not None
        step, calls, clock = self.step, self.calls, time.perf_counter
        gc.collect()
        gc.disable()
        try:
            begin = clock()
            while True:
                step()
                self._wait()
                if clock() - begin > seconds / 8:
                    break
            best, samples, begin = float("inf"), 0, clock()
            repeat = range(calls)
            while True:
                start = clock()
                for _ in repeat:
                    step()
                self._wait()
                stop = clock()
                best, samples = min(best, stop - start), samples + 1
                if stop - begin >= seconds:
                    break
        finally:
            gc.enable()
        return {"seconds": best / calls, "samples": samples}

    def value(self, row: str) -> dict[str, Any]:
        """The number that a row measures by itself."""
        return {"value": float(self._make(row)())}

    def limits(self, seconds: float) -> dict[str, Any]:
        """Peak arithmetic and bandwidth (pydlx only)."""
        from . import limits

        return limits.measure(self.T, seconds) if self.device == "cpu" else limits.measure_gpu(self.T, seconds)

    def drop(self) -> dict[str, Any]:
        """Frees the current row."""
        self.step = None
        gc.collect()
        return {}


def main(library: str, threads: int, device: str = "cpu") -> None:
    """Serves until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server: Server | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            server = server or Server(library, threads, device)
            reply = {"ok": getattr(server, request.pop("command"))(**request)}
        except Exception as error:  # the parent reports it beside the row
            reply = {"error": f"{type(error).__name__}: {error}", "lost": server is not None and server.is_lost()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
