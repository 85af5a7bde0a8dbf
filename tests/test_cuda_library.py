"""Products by cuBLASLt and convolutions by cuDNN, opened at run time. Most of this runs with stand-ins for the libraries
(fake_cublas_lt.cpp, fake_cudnn.cpp), which no GPU is needed for; where a GPU and the real ones are, they are oracles of the own kernels."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_program import EMULATED, compiled, python, run_part

import pydlx

DEVICE = pydlx.cuda.is_available()
needs_emulator = pytest.mark.skipif(not EMULATED, reason="needs the emulator: the stand-in computes nothing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("library")


def stand_in(folder, name):
    options = ("-shared", "-fPIC")
    return str(compiled(folder / f"lib{name}.so", f"tests/{name}.cpp", options=options, emulator=False))


@pytest.fixture(scope="module")
def fake(folder):
    return stand_in(folder, "fake_cublas_lt")


@pytest.fixture(scope="module")
def fake_cudnn(folder):
    return stand_in(folder, "fake_cudnn")


@pytest.fixture(scope="module")
def program(folder):
    libraries = [f"cuda/libraries/{name}.cpp" for name in ("cublas_lt", "cudnn", "shared_library")]
    return compiled(
        folder / "cuda_library", "tests/cuda_library.cpp", *libraries, "csrc/core/check.cpp", options=("-rdynamic",)
    )


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
        "[matmul] PYDLX_CUDA_GEMM: expected the library, because it is set to cublas; got: /nowhere/lib.so"
    )
    assert "set it to own or auto" in missing
    assert "it has no cublasLtCreate" in said("cublas", "libm.so.6")
    assert "expected own, cublas or auto, got 'cuda'" in said("cuda", fake)
    assert "cublasLtMatmul: status 13" in said("cublas", fake, FAKE_CUBLAS_FAILS="1")


def test_convolutions(program, fake_cudnn, tmp_path):
    log = tmp_path / "log"
    environment = {"PYDLX_CUDA_CONV": "cudnn", "PYDLX_CUDNN": fake_cudnn, "FAKE_CUDNN_LOG": str(log)}
    done = run_part(program, "convolutions", **environment)
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    # Four geometries of four types, the first type twice; forward once more for the refusals, which do not get there.
    assert [lines.count(f"choose {name}") for name in ("forward", "data", "filter")] == [16] * 3
    assert [lines.count(name) for name in ("forward", "data", "filter", "add", "create")] == [21, 20, 20, 40, 1]


def test_errors_of_convolutions(program, fake_cudnn):
    def said(mode, library, **environment):
        return run_part(program, "conv_served", PYDLX_CUDA_CONV=mode, PYDLX_CUDNN=library, **environment).stdout.strip()

    for mode in ("cudnn", "auto"):
        assert said(mode, fake_cudnn) == "yes"
        assert said(mode, fake_cudnn, FAKE_CUDNN_NONE="1") == "no"
    assert said("own", fake_cudnn) == said("auto", "/nowhere/lib.so") == "no"
    missing = said("cudnn", "/nowhere/lib.so")
    assert missing.startswith(
        "[conv] PYDLX_CUDA_CONV: expected the library, because it is set to cudnn; got: /nowhere/lib.so"
    )
    assert "name the file in PYDLX_CUDNN, or set it to own or auto" in missing
    assert "it has no cudnnCreate" in said("cudnn", "libm.so.6")
    assert "expected own, cudnn or auto, got 'yes'" in said("yes", fake_cudnn)


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


TRAINING = """
import pydlx
x = pydlx.ones(2, 3, 8, 8, device="cuda", requires_grad=True)
layer = pydlx.nn.Conv2d(3, 4, 3, padding=1, device="cuda")
for _ in range(2): layer(x).sum().backward()
"""


@needs_emulator
def test_a_layer(fake_cudnn, tmp_path):
    log = tmp_path / "log"
    done = python(TRAINING, PYDLX_CUDA_CONV="auto", PYDLX_CUDNN=fake_cudnn, FAKE_CUDNN_LOG=str(log))
    assert done.returncode == 0, done.stderr
    first = ["create", "choose forward", "forward", "add", "choose data", "data", "choose filter", "filter"]
    lines = log.read_text().splitlines()
    assert sorted(lines[:8]) == sorted(first)
    assert sorted(lines[8:]) == sorted(["forward", "add", "data", "filter"])


@needs_emulator
def test_without_the_library():
    source = 'import pydlx\nx = pydlx.eye(80, device="cuda")\nassert ((x @ x) == x).all().item()'
    assert python(source, PYDLX_CUDA_GEMM="auto", PYDLX_CUBLAS_LT="/nowhere/lib.so").returncode == 0
    done = python(source, PYDLX_CUDA_GEMM="cublas", PYDLX_CUBLAS_LT="/nowhere/lib.so")
    assert "pydlx.DeviceError: [matmul] PYDLX_CUDA_GEMM: expected the library" in done.stderr


# Results by type, each divided by its largest value.
KEEP = """
import os, numpy as np, pydlx
rng = np.random.default_rng(0)
kept = {}
def random(dtype, *shapes):
    return [pydlx.from_numpy(rng.standard_normal(s).astype(np.float32)).to(dtype).cuda().requires_grad_() for s in shapes]
def keep(*results):
    for t in results:
        name = str(t.dtype).split(".")[1]
        kept[name] = np.append(kept.get(name, []), t.detach().cpu().float().numpy() / t.abs().max().item())
"""
PRODUCTS_OF_BOTH = """
for m, n, k in [(64, 64, 64), (129, 200, 72), (1000, 300, 512), (37, 41, 530)]:
    for dtype in (pydlx.float32, pydlx.bfloat16, pydlx.float16):
        a, b, bias = random(dtype, (m, k), (n, k), (n,))
        keep(a @ b.t(), pydlx.nn.functional.linear(a, b, bias), a.t().contiguous().t() @ b.t().contiguous())
"""
CONVOLUTIONS_OF_BOTH = """
shapes = [
    ((2, 16, 20, 21), (32, 16, 3, 3), dict(padding=1)),
    ((3, 64, 9, 9), (64, 32, 3, 3), dict(groups=2, stride=2)),
    ((2, 8, 30), (16, 8, 5), {}),
]
for x, w, more in shapes:
    for dtype in (pydlx.float32, pydlx.bfloat16, pydlx.float16):
        a, b, bias = random(dtype, x, w, w[:1])
        y = (pydlx.nn.functional.conv1d if len(x) == 3 else pydlx.nn.functional.conv2d)(a, b, bias, **more)
        (y * y).sum().backward()
        keep(y, a.grad, b.grad)
"""
SAVE = 'np.savez(os.environ["RESULT"], **kept)'


@pytest.mark.skipif(not DEVICE or EMULATED, reason="needs a GPU and the library")
@pytest.mark.parametrize(
    ("source", "variable", "library"),
    [(PRODUCTS_OF_BOTH, "PYDLX_CUDA_GEMM", "cublas"), (CONVOLUTIONS_OF_BOTH, "PYDLX_CUDA_CONV", "cudnn")],
    ids=["cublas", "cudnn"],
)
def test_oracle(source, variable, library, tmp_path):
    results = []
    for mode in ("own", library):
        file = tmp_path / f"{mode}.npz"
        done = python(KEEP + source + SAVE, **{variable: mode, "RESULT": str(file)})
        if "expected the library" in done.stderr:
            pytest.skip(done.stderr.splitlines()[-1])
        assert done.returncode == 0, done.stderr
        results.append(np.load(file))
    own, other = results
    # Both round a result once, and what is differentiated again.
    for dtype, limit in {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}.items():
        assert np.abs(own[dtype] - other[dtype]).max() <= limit
