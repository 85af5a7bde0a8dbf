"""Walks the table of cases: values, gradients, second gradients, layouts, threads, instruction sets, errors."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from cases import all_cases, all_errors

import pydlx

CASES = all_cases()
EPSILON = {"float64": 2.3e-16, "float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.9e-3}
ISAS = pydlx._C.build_info()["cpu_isas"]
OTHER_ISAS = [
    isa for isa in ISAS[:-1] if not ISAS[-1].startswith(isa)
]  # avx512_bf16 differs from avx512 in products alone


def by(predicate):
    rows = [c for c in CASES if predicate(c)]
    return pytest.mark.parametrize("case", rows, ids=[c.name for c in rows])


def rng_for(case, salt=0):
    return np.random.default_rng([salt, *case.name.encode()])


def place(t):
    """Where the tensors under test live; test_cuda_ops.py says on the GPU."""
    return t


def to_pydlx(a, dtype=None, grad=False):
    t = place(pydlx.from_numpy(np.array(a)))
    if dtype and a.dtype == np.float64:
        t = t.to(getattr(pydlx, dtype))
    return t.requires_grad_(grad and t.dtype.is_floating_point)


def to_torch(a, dtype=None, grad=False):
    t = torch.from_numpy(np.array(a))
    if dtype and a.dtype == np.float64:
        t = t.to(getattr(torch, dtype))
    return t.requires_grad_(grad and t.dtype.is_floating_point)


def tensors_of(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def numpy_of(t):
    t = t.detach().cpu().clone()  # clone: PyTorch may return a lazy zero tensor
    return (t.double() if t.dtype in (pydlx.bfloat16, torch.bfloat16, pydlx.float16, torch.float16) else t).numpy()


def assert_close(got, want, limit, what):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if got.size == 0:
        return
    if want.dtype.kind in "biu":
        assert np.array_equal(got, want), f"{what}: differs in {np.count_nonzero(got != want)} of {got.size} elements"
        return
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    error = np.where(same, 0, np.abs(got.astype(np.float64) - want))
    assert not np.isnan(error).any(), f"{what}: NaN or infinity where the oracle has none (or the other way round)"
    finite = np.abs(want[np.isfinite(want)])
    scale = float(finite.max()) if finite.size else 1.0
    allowed = limit * np.maximum(np.where(np.isfinite(want), np.abs(want), 0), scale)
    worst = int(np.argmax(error - allowed))
    assert (error <= allowed).all(), (
        f"{what}: error {error.flat[worst]:.3g} at flat position {worst} (got {got.flat[worst]!r}, expected {want.flat[worst]!r}); "
        f"allowed {np.broadcast_to(allowed, error.shape).flat[worst]:.3g}"
    )


def limit_for(case, dtype):
    return 16 * EPSILON[dtype] * case.tolerance


def check_values(case, dtype, salt=0):
    arrays = case.inputs(rng_for(case, salt))
    got = tensors_of(case.fn(pydlx, *[to_pydlx(a, dtype) for a in arrays]))
    # The oracle sees the inputs as rounded to the dtype under test, but computes in float64.
    rounded = [to_torch(a, dtype).double().numpy() if a.dtype == np.float64 else a for a in arrays]
    want = tensors_of(case.fn(torch, *[to_torch(a) for a in rounded]))
    assert len(got) == len(want)
    for i, (g, w) in enumerate(zip(got, want)):
        if not w.dtype.is_floating_point:
            assert str(g.dtype).split(".")[1] == str(w.dtype).split(".")[1], (
                f"{case.name}: output {i} has dtype {g.dtype}"
            )
        limit = 0.0 if case.exact else limit_for(case, dtype)
        assert_close(numpy_of(g), numpy_of(w), limit, f"{case.name} {dtype} output {i}")


VALUE_ROWS = [(c, d) for c in CASES for d in c.dtypes]


@pytest.mark.parametrize(("case", "dtype"), VALUE_ROWS, ids=[f"{c.name}-{d}" for c, d in VALUE_ROWS])
def test_values(case, dtype):
    check_values(case, dtype)


@by(lambda c: True)
@pytest.mark.parametrize("isa", OTHER_ISAS, indirect=True)
def test_other_instruction_sets(case, isa):
    check_values(case, case.dtypes[0], salt=1)


def grad_positions(case, tensors):
    wanted = range(len(tensors)) if case.grad_inputs is None else case.grad_inputs
    return [i for i in wanted if tensors[i].dtype.is_floating_point]


def gradients(T, case, arrays, dtype, create_graph=False):
    """Outputs, differentiable inputs and gradients of <outputs, random cotangents>."""
    make = to_pydlx if T is pydlx else to_torch
    tensors = [make(a, dtype) for a in arrays]
    leaves = [tensors[i].requires_grad_(True) for i in grad_positions(case, tensors)]
    outputs = [o for o in tensors_of(case.fn(T, *tensors)) if o.requires_grad]
    assert outputs, f"{case.name}: no output requires a gradient"
    rng = rng_for(case, 7)
    cotangents = [make(rng.standard_normal(tuple(o.shape)), dtype).to(o.dtype) for o in outputs]
    if create_graph:
        cotangents = [c.requires_grad_(True) for c in cotangents]
    grads = T.autograd.grad(outputs, leaves, cotangents, create_graph=create_graph, allow_unused=True)
    return leaves + (cotangents if create_graph else []), [
        g if g is not None else T.zeros_like(leaf) for g, leaf in zip(grads, leaves)
    ]


@by(lambda c: c.grad)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients(case, dtype):
    check_gradients(case, dtype)


def check_gradients(case, dtype):
    arrays = case.inputs(rng_for(case))
    _, got = gradients(pydlx, case, arrays, dtype)
    rounded = [to_torch(a, dtype).double().numpy() if a.dtype == np.float64 else a for a in arrays]
    _, want = gradients(torch, case, rounded, "float64")
    for i, (g, w) in enumerate(zip(got, want)):
        assert_close(numpy_of(g), numpy_of(w), 4 * limit_for(case, dtype), f"{case.name} {dtype} gradient {i}")


@by(lambda c: c.grad and c.second)
def test_second_gradients(case):
    arrays = case.inputs(rng_for(case))

    def second(T):
        leaves, grads = gradients(T, case, arrays, "float64", create_graph=True)
        grads = [g for g in grads if g.requires_grad]
        rng = rng_for(case, 11)
        make = to_pydlx if T is pydlx else to_torch
        cotangents = [make(rng.standard_normal(tuple(g.shape))) for g in grads]
        result = T.autograd.grad(grads, leaves, cotangents, allow_unused=True)
        return [numpy_of(r) if r is not None else np.zeros(tuple(leaf.shape)) for r, leaf in zip(result, leaves)]

    for i, (g, w) in enumerate(zip(second(pydlx), second(torch))):
        assert_close(g, w, 64 * limit_for(case, "float64"), f"{case.name} second gradient {i}")


@by(lambda c: c.grad)
def test_finite_differences(case):
    """<J v, u> by central differences along a random direction v, against <v, J^T u> from backward."""
    arrays = case.inputs(rng_for(case, 3))
    leaves, grads = gradients(pydlx, case, arrays, "float64")
    positions = grad_positions(case, [to_pydlx(a) for a in arrays])
    rng = rng_for(case, 5)
    direction = {i: rng.standard_normal(arrays[i].shape) for i in positions}
    step = 1e-6

    def value(sign):
        moved = [a + sign * step * direction[i] if i in direction else a for i, a in enumerate(arrays)]
        outputs = [o for o in tensors_of(case.fn(pydlx, *[to_pydlx(a) for a in moved])) if o.dtype.is_floating_point]
        cot = rng_for(case, 7)
        return sum(float((numpy_of(o) * cot.standard_normal(tuple(o.shape))).sum()) for o in outputs)

    numeric = (value(1) - value(-1)) / (2 * step)
    exact = sum(float((numpy_of(g) * direction[i]).sum()) for g, i in zip(grads, positions))
    scale = sum(float(np.abs(numpy_of(g) * direction[i]).sum()) for g, i in zip(grads, positions))
    assert abs(numeric - exact) <= 1e-5 * case.tolerance * max(scale, 1.0), (
        f"{case.name}: finite differences {numeric}, backward {exact}"
    )


def strided_copy(a):
    """The same values in memory with gaps and reversed axis order."""
    if a.ndim == 0:
        return a
    wide = np.zeros([2 * s for s in a.shape[::-1]], a.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in a.shape)].transpose()
    view[...] = a
    return view


@by(lambda c: c.layouts)
def test_strided_inputs(case):
    check_strided_inputs(case)


def check_strided_inputs(case):
    arrays = case.inputs(rng_for(case))
    dtype = case.dtypes[0]

    def run(prepare):
        tensors = []
        for a in arrays:
            a = a.astype(dtype) if a.dtype == np.float64 and dtype in ("float32", "float64") else a
            tensors.append(place(pydlx.from_numpy(prepare(a))))
        return [numpy_of(o) for o in tensors_of(case.fn(pydlx, *tensors))]

    for i, (g, w) in enumerate(zip(run(strided_copy), run(np.array))):
        assert_close(g, w, 0.0 if case.exact else limit_for(case, dtype), f"{case.name} strided output {i}")


@by(lambda c: c.grad)
def test_saved_tensors_that_come_back_strided(case):
    """A hook may give a tensor back with any strides, and lets it go after backward."""
    arrays, dtype, kept = case.inputs(rng_for(case)), case.dtypes[0], []

    class Packed:
        def __init__(self, t):
            kept.append(weakref.ref(self))
            self.tensor = t.detach()

        def unpack(self):
            wide = self.tensor.new_zeros([2 * s for s in reversed(self.tensor.shape)])
            view = wide[tuple(slice(1, None, 2) for _ in self.tensor.shape)].permute(list(reversed(range(wide.dim()))))
            return view.copy_(self.tensor)

    with pydlx.autograd.graph.saved_tensors_hooks(Packed, Packed.unpack):
        _, got = gradients(pydlx, case, arrays, dtype)
    _, want = gradients(pydlx, case, arrays, dtype)
    for i, (g, w) in enumerate(zip(got, want)):
        assert_close(numpy_of(g), numpy_of(w), 4 * limit_for(case, dtype), f"{case.name} gradient {i}")
    assert not [k for k in kept if k()]


@by(lambda c: True)
def test_thread_counts_agree(case):
    def run(threads):
        pydlx.set_num_threads(threads)
        arrays = case.inputs(rng_for(case))
        results = [
            numpy_of(o).tobytes() for o in tensors_of(case.fn(pydlx, *[to_pydlx(a, case.dtypes[0]) for a in arrays]))
        ]
        if case.grad:
            results += [numpy_of(g).tobytes() for g in gradients(pydlx, case, arrays, case.dtypes[0])[1]]
        return results

    before = pydlx.get_num_threads()
    try:
        assert run(1) == run(2) == run(3), f"{case.name}: results depend on the number of threads"
    finally:
        pydlx.set_num_threads(before)


ERRORS = all_errors()


@pytest.mark.parametrize("row", ERRORS, ids=[e.name for e in ERRORS])
def test_errors(row):
    with pytest.raises(row.error, match=row.match):
        row.fn(pydlx)
