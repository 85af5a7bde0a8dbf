"""What training steps launch on a GPU: PYDLX_CUDA_TRACE, and bounds for the steps of ``training_steps.py``."""

from __future__ import annotations

import collections

import pytest
from cuda_program import ROOT, python

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

# Kernels, and other work, of a steady step. Whoever launches less lowers the number.
BOUNDS = {
    "mlp": (23, 0),
    "cnn": (36, 2),
    "resnet": (123, 0),
    "resnet channels_last": (103, 0),
    "resnet float32": (122, 0),
    "lstm": (54, 6),
    "lstm bfloat16": (60, 4),
    "gpt": (125, 0),
    "gpt float32": (110, 0),
    "gpt float16 scaled": (129, 1),
    "gpt accumulated": (251, 0),
    "transformer": (116, 0),
    "vit": (115, 0),
}


def traced(program, path, **environment):
    done = python(program, PYDLX_CUDA_TRACE=str(path), **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lines_name_operation_geometry_and_kernel(tmp_path):
    trace = tmp_path / "trace"
    traced(
        "import pydlx\n"
        "x = pydlx.ones(64, 64, device='cuda', requires_grad=True)\n"
        "pydlx.exp(x).backward(pydlx.ones(64, 64, device='cuda'))\n"
        "float(pydlx.ones(3, device='cuda')[0])",
        trace,
    )
    lines = trace.read_text().splitlines()
    forward = [line.split(" ", 5) for line in lines if line.startswith("kernel exp ")]
    assert len(forward) == 1
    blocks, threads, shared, name = forward[0][2:]
    assert blocks.endswith("x1x1") and threads == "256x1x1" and shared == "0"
    assert "Unary" in name and "float" in name and "(anonymous" not in name
    assert any(line.startswith("kernel exp.backward ") for line in lines)
    assert [line for line in lines if line.startswith("wait ")] == ["wait - 4"]


def test_silent_unless_asked(tmp_path):
    assert traced("import pydlx\npydlx.ones(2, device='cuda')", "") == ""


@pytest.mark.parametrize("name", BOUNDS)
def test_a_training_step_launches_no_more_than(tmp_path, name):
    trace = tmp_path / "trace"
    lines = traced(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        f"import training_steps\ntraining_steps.main({str(trace)!r}, [{name!r}])",
        trace,
        # An emulator need not run what is counted, but where numbers decide whether a step is taken.
        PYDLX_EMULATED_IDLE="0" if "scaled" in name else "1",
    ).splitlines()[1:]
    kernels = [line for line in lines if line.startswith("kernel ")]
    most_kernels, most_others = BOUNDS[name]
    reasons = collections.Counter((line.split()[1], line.split(" ", 5)[-1]) for line in kernels)
    table = "\n".join(f"{count:4d} {operation}: {kernel}" for (operation, kernel), count in reasons.items())
    others = [line for line in lines if not line.startswith("kernel ")]
    said = f"{len(kernels)} kernels (at most {most_kernels}):\n{table}\n" + "\n".join(others)
    assert len(kernels) <= most_kernels and len(others) <= most_others, said
