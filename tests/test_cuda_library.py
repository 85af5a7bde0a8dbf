"""Products by cuBLASLt, opened at run time. Most of this runs with a stand-in for the library (fake_cublas_lt.cpp), which no GPU is needed
for; where a GPU and the real library are, it is the oracle of the own kernels."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_program import compiled, python, run_part

import pydlx

DEVICE = pydlx.cuda.is_available()
EMULATED = DEVICE and "emulat" in pydlx.cuda.get_device_properties().name.lower()
needs_emulator = pytest.mark.skipif(not EMULATED, reason="needs the emulator: the stand-in computes nothing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def fake(folder):
    return str(
        compiled(folder / "libfake.so", "tests/fake_cublas_lt.cpp", options=("-shared", "-fPIC"), emulator=False)
    )


@pytest.fixture(scope="module")
def program(folder):
    sources = ("tests/cuda_library.cpp", "cuda/gemm/library.cpp", "csrc/core/check.cpp")
    return compiled(folder / "cuda_library", *sources, options=("-rdynamic",))


@pytest.mark.parametrize("part", ["products", "refusals"])
def test_parts(program, fake, part):
    done = run_part(program, part, PYDLX_CUDA_GEMM="cublas", PYDLX_CUBLAS_LT=fake)
    assert done.returncode == 0, done.stderr


def test_a_shape_is_asked_for_once(program, fake, tmp_path):
    log = tmp_path / "log"
    done = run_part(program, "cached", PYDLX_CUDA_GEMM="cublas", PYDLX_CUBLAS_LT=fake, FAKE_CUBLAS_LOG=str(log))
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    assert lines.count("create") == lines.count("heuristic 4x4x4") == lines.count("heuristic 6x6x6") == 1
    assert lines.count("matmul 4x4 batch 1") == 7
    assert lines.count("matmul 6x6 batch 1") == 3


def test_errors(program, fake):
    def said(mode, library, **environment):
        return run_part(program, "served", PYDLX_CUDA_GEMM=mode, PYDLX_CUBLAS_LT=library, **environment).stdout.strip()

    assert said("cublas", fake) == "yes"
    assert said("cublas", fake, FAKE_CUBLAS_NONE="1") == "no"
    for mode in ("own", "", "auto"):
        assert said(mode, "/nowhere/lib.so") == "no"
    missing = said("cublas", "/nowhere/lib.so")
    assert missing.startswith(
        "[matmul] PYDLX_CUDA_GEMM: expected cuBLASLt, because it is set to cublas; got: /nowhere/lib.so"
    )
    assert "set it to own or auto" in missing
    assert "it has no cublasLtCreate" in said("cublas", "libm.so.6")
    assert "expected own, cublas or auto, got 'cuda'" in said("cuda", fake)
    assert "cublasLtMatmul: status 13" in said("cublas", fake, FAKE_CUBLAS_FAILS="1")


PRODUCTS = """
import pydlx
def make(*shape, dtype=pydlx.bfloat16): return pydlx.ones(*shape, dtype=dtype, device="cuda")
make(64, 128) @ make(128, 72)
make(64, 128) @ make(128, 71)
make(8, 8) @ make(8, 8)
make(70, 70, dtype=pydlx.float32) @ make(70, 70, dtype=pydlx.float32)
pydlx.nn.functional.linear(make(3, 40, 64, dtype=pydlx.float64), make(50, 64, dtype=pydlx.float64), make(50, dtype=pydlx.float64))
make(70, 70, dtype=pydlx.int32) @ make(70, 70, dtype=pydlx.int32)
"""


@needs_emulator
def test_what_goes_where(fake, tmp_path):
    def products(mode):
        log = tmp_path / mode
        done = python(PRODUCTS, PYDLX_CUDA_GEMM=mode, PYDLX_CUBLAS_LT=fake, FAKE_CUBLAS_LOG=str(log))
        assert done.returncode == 0, done.stderr
        return [line for line in log.read_text().splitlines() if line.startswith("matmul")] if log.exists() else []

    assert products("own") == []
    float_products = ["matmul 70x70 batch 1", "matmul 50x120 batch 1 bias"]
    assert products("auto") == ["matmul 71x64 batch 1", *float_products]
    assert products("cublas") == ["matmul 72x64 batch 1", "matmul 71x64 batch 1", "matmul 8x8 batch 1", *float_products]


@needs_emulator
def test_without_the_library():
    source = 'import pydlx\nx = pydlx.eye(80, device="cuda")\nassert ((x @ x) == x).all().item()'
    assert python(source, PYDLX_CUDA_GEMM="auto", PYDLX_CUBLAS_LT="/nowhere/lib.so").returncode == 0
    done = python(source, PYDLX_CUDA_GEMM="cublas", PYDLX_CUBLAS_LT="/nowhere/lib.so")
    assert "pydlx.DeviceError: [matmul] PYDLX_CUDA_GEMM: expected cuBLASLt" in done.stderr


ORACLE = """
import os, numpy as np, pydlx
rng = np.random.default_rng(0)
out = []
for m, n, k in [(64, 64, 64), (129, 200, 72), (1000, 300, 512), (37, 41, 530)]:
    for dtype in (pydlx.float32, pydlx.bfloat16, pydlx.float16):
        a, b, bias = (pydlx.from_numpy(rng.standard_normal(s).astype(np.float32)).to(dtype).cuda() for s in [(m, k), (n, k), (n,)])
        out += [a @ b.t(), pydlx.nn.functional.linear(a, b, bias), a.t().contiguous().t() @ b.t().contiguous()]
np.save(os.environ["RESULT"], np.concatenate([t.cpu().float().numpy().ravel() for t in out]))
"""


@pytest.mark.skipif(not DEVICE or EMULATED, reason="needs a GPU and cuBLASLt")
def test_oracle(tmp_path):
    results = []
    for mode in ("own", "cublas"):
        file = tmp_path / f"{mode}.npy"
        done = python(ORACLE, PYDLX_CUDA_GEMM=mode, RESULT=str(file))
        if "expected cuBLASLt" in done.stderr:
            pytest.skip(done.stderr.splitlines()[-1])
        assert done.returncode == 0, done.stderr
        results.append(np.load(file))
    own, other = results
    assert np.abs(own - other).max() <= 1.6e-2 * np.abs(other).max()
