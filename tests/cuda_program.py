"""Programs for the host that tests compile from the backend's sources and the emulator, and processes that import this very build."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pydlx

ROOT = Path(__file__).resolve().parent.parent
# A sanitizer that is loaded into every process knows nothing of these programs, nor of the emulator's stacks.
PLAIN = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
# Whether "cuda" is the emulator; False without any device.
EMULATED = pydlx.cuda.is_available() and "emulat" in pydlx.cuda.get_device_name().lower()


def compiled(target, *sources, options=(), emulator=True):
    """Compiles ``sources`` (from the root of the tree) with warnings as errors; skips without a compiler or the sources."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or platform.machine() != "x86_64" or not (ROOT / "cuda").is_dir():
        pytest.skip("needs a C++ compiler, an x86-64 processor and the sources")
    files = [ROOT / s for s in sources] + (sorted((ROOT / "cuda/emulator").glob("*.cpp")) if emulator else [])
    include = [f"-I{ROOT / folder}" for folder in ("cuda/emulator", ".", "csrc")]
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-pthread", *options]
    command = [compiler, *flags, *include, *map(str, files), "-o", str(target), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=PLAIN)
    assert done.returncode == 0, done.stderr
    return target


def run_part(program, part, **environment):
    environment = {**PLAIN, **environment}
    return subprocess.run([program, part], capture_output=True, text=True, timeout=120, env=environment)


def python(program, **environment):
    """Runs Python source against the very extension that runs here; under an emulated build it need not be the installed one."""
    paths = [str(Path(pydlx.__file__).parent.parent), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    full = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), **environment}
    away = tempfile.gettempdir()  # from a source tree without an extension
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=full, timeout=300, cwd=away)


def verbose_lines(program, word, **environment):
    """What ``PYDLX_VERBOSE=1`` prints while a Python program runs: the lines that contain ``word``."""
    done = python(program, PYDLX_VERBOSE="1", **environment)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if word in line]


def choices(program, word, **environment):
    """``verbose_lines`` of a program of whose results nothing depends: under the emulator its kernels are not run."""
    return verbose_lines(program, word, PYDLX_EMULATED_IDLE="1", **environment)


def check_wgmma_choice(program, word, expected, **environment):
    """The lines that contain ``word`` say these texts, one each; with ``PYDLX_CUDA_WGMMA=0``, whose lines are returned, that this is why."""
    said = choices(program, word, **environment)
    assert len(said) == len(expected)
    for line, text in zip(said, expected):
        assert text in line, line
    off = choices(program, word, PYDLX_CUDA_WGMMA="0", **environment)
    assert len(off) == len(expected)
    assert all("not wgmma: PYDLX_CUDA_WGMMA is 0" in line for line in off)
    return off
