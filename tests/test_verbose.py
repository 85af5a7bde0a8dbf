"""PYDLX_VERBOSE: which kernel ran, and why the others were refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

import pytest

import pydlx


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", f"import pydlx\n{code}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tempfile.gettempdir(),  # away from a source tree without an extension
    )
    assert result.returncode == 0, result.stderr
    return result.stderr.splitlines()


@pytest.mark.parametrize("value", [None, "", "0"])
def test_silent_unless_asked(value):
    environment = {} if value is None else {"PYDLX_VERBOSE": value}
    assert run("pydlx.ones(64, 64) @ pydlx.ones(64, 64)", **environment) == []


def test_import_names_the_path_and_why_no_wider_one():
    isas = pydlx._C.build_info()["cpu_isas"]
    if isas[0] != "generic":
        pytest.skip("this build has one wide path only")
    first = run("", PYDLX_VERBOSE="1", PYDLX_CPU_ISA="generic")[0]
    assert first.startswith("pydlx: CPU path generic")
    assert f"BLAS {pydlx._C.build_info()['blas']}" in first
    for wider in isas[1:]:
        assert f"not {wider}: PYDLX_CPU_ISA=generic" in first
    assert "PYDLX_CPU_ISA" not in run("", PYDLX_VERBOSE="1")[0]


def test_products_name_the_kernel_and_the_refusal():
    lines = run(
        "a = pydlx.ones(64, 48)\n"
        "a @ pydlx.ones(48, 40)\n"  # register tiles
        "a[:1] @ pydlx.ones(40, 48).T\n"  # inner products along contiguous columns
        "pydlx.ones(3, 4, dtype=pydlx.int32) @ pydlx.ones(4, 5, dtype=pydlx.int32)\n"
        "pydlx.ones(8, 8, dtype=pydlx.bfloat16) @ pydlx.ones(8, 8, dtype=pydlx.bfloat16)",
        PYDLX_VERBOSE="1",
    )[1:]
    assert len(lines) == 4
    assert all(re.fullmatch(r"pydlx: matmul .* \(\w+\): .*; [\d.]+ us", line) for line in lines), lines
    assert "float32 m=64 n=40 k=48 batch=1" in lines[0]
    assert "register tiles" in lines[0] and "not inner products: columns of B are not contiguous" in lines[0]
    assert "inner products along K" in lines[1] and "register tiles" not in lines[1]
    assert "int32 m=3 n=5 k=4" in lines[2] and "integer tiles" in lines[2]
    assert re.search("widened to float32|vdpbf16ps", lines[3]) and "register tiles" in lines[3]


def test_library_products_say_why_not():
    facts = pydlx._C.build_info()
    if facts["blas"] == "none" or "avx2" not in facts["cpu_isas"]:
        pytest.skip("needs a build with BLAS and a machine with AVX2")
    plain, small, large = run(
        "a = pydlx.ones(1100, 1100, dtype=pydlx.float64)\n"
        "assert (a @ a == 1100).all()\n"
        "assert (a[:512, :700].T @ a[:512, :700] == 512).all()\n"
        "assert (a.T @ a == 1100).all()",
        PYDLX_VERBOSE="1",
        PYDLX_CPU_ISA="avx2",
    )[1:]
    assert "not BLAS: A is not transposed" in plain and "register tiles" in plain
    assert "not BLAS: too few tiles" in small and "register tiles" in small
    assert "BLAS dgemm" in large and "register tiles" not in large


def test_strided_convolutions():
    lines = run(
        "from pydlx.nn.functional import conv2d\n"
        "x, w = (pydlx.ones(s, requires_grad=True) for s in ((4, 64, 16, 16), (128, 64, 3, 3)))\n"
        "conv2d(x, w, stride=2, padding=1).sum().backward()\n"
        "pydlx.set_float32_matmul_precision('highest')\n"
        "conv2d(x.detach(), w.detach(), stride=2, padding=1)\n"
        "conv2d(x.detach(), w.detach(), stride=3)\n"
        "conv2d(x.detach(), pydlx.ones(128, 64, 5, 5), stride=2)\n"
        "conv2d(x.detach()[:1], w.detach(), stride=2)\n",
        PYDLX_VERBOSE="1",
    )[1:]
    conv = [line for line in lines if "pass" in line]
    assert len(conv) == 7 and all("Winograd F(4x4, 3x3) over the phases of stride 2" in line for line in conv[:3])
    assert "Winograd F(3x3, 3x3) over the phases of stride 2" in conv[3]
    reasons = ("stride is neither 1 nor 2", "stride is not 1", "too few channels or tiles")
    assert all(f"not Winograd: {reason}" in line for line, reason in zip(conv[4:], reasons, strict=True))


def test_convolution_and_attention():
    lines = run(
        "import pydlx.nn.functional as F\n"
        "x = pydlx.ones(2, 3, 8, 8, requires_grad=True)\n"
        "F.conv2d(x, pydlx.ones(4, 3, 3, 3)).sum().backward()\n"
        "F.conv2d(x.detach(), pydlx.ones(3, 1, 3, 3), groups=3)\n"
        "q = pydlx.ones(1, 2, 8, 16)\n"
        "F.scaled_dot_product_attention(q, q, q)\n"
        "F.scaled_dot_product_attention(q, q, q, dropout_p=1.0)\n"
        "q = q.double()\n"
        "F.scaled_dot_product_attention(q, q, q)",
        PYDLX_VERBOSE="1",
    )[1:]
    conv = [line for line in lines if "pass" in line]
    assert ["pass forward" in conv[0], "pass input gradient" in conv[1], "pass forward" in conv[2]] == [True] * 3
    assert "x (2, 3, 8, 8) w (4, 3, 3, 3) y (2, 4, 6, 6)" in conv[0]
    assert len(conv) == 3
    attention = [line for line in lines if "scaled_dot_product_attention" in line]
    assert len(attention) == 3
    assert "tiled kernel" in attention[0] and "not the tiled kernel" not in attention[0]
    assert "not the tiled kernel: dropout of every weight" in attention[1]
    assert "not the tiled kernel: not written for this dtype" in attention[2]
