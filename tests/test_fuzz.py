"""Calls every native op with random and hostile arguments, drawn from its own signature.

Whatever comes, an op returns or raises one of the documented exceptions with a message that starts with ``[op]``; it never crashes, hangs
or allocates without bound, and the process stays usable. ``make fuzz`` runs the same under sanitizers for much longer.
"""

from __future__ import annotations

import os
import re
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import pydlx
from pydlx import _C

EXAMPLES = int(os.environ.get("PYDLX_FUZZ_EXAMPLES", "8"))
EXPECTED = (
    ValueError,
    TypeError,
    RuntimeError,
    IndexError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    ZeroDivisionError,
)
DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 3.7, float("nan"), float("inf"), float("-inf"), 1e308, -1e-308, 65504.0]
HUGE = [2**31, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64, -(2**31)]

# Parameters that are sizes of results: with 2^31 these take 8 to 24 GB, which a machine may have and may not.
SIZES = {"bins", "minlength"}
# The same of ops that draw random numbers: as many of them take a minute.
DRAWN = {"size", "n", "num_samples"}

# Ops that change process-wide state, or whose contract is to take a long time for large arguments.
SKIP = {"manual_seed", "seed"}


def all_ops():
    found = {}
    for owner in (_C, pydlx.Tensor):
        for name in dir(owner):
            op = owner.__dict__.get(name)
            if type(op).__name__ == "Op" and name not in SKIP:
                found[name] = op
    return found


OPS = all_ops()


@st.composite
def tensors(draw):
    ndim = draw(st.integers(0, 4))
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 4, 5]), min_size=ndim, max_size=ndim)))
    dtype = draw(st.sampled_from(DTYPES))
    kind = draw(st.sampled_from(["normal", "special", "small", "huge"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    if kind == "normal":
        values = rng.standard_normal(shape) * 3
    elif kind == "special":
        values = rng.choice(SPECIAL, shape)
    elif kind == "small":
        values = rng.integers(-2, 6, shape)
    else:
        values = rng.choice([-(2**63), 2**63 - 1, 2**31, -1, 0, 7], shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.asarray(values).astype("float32" if dtype in ("bfloat16", "float16") else dtype)
    if dtype == "bool" and kind == "huge":  # bytes that are neither 0 nor 1, as uninitialised or foreign memory holds
        array = rng.integers(0, 256, shape).astype("uint8").view("bool")
    tensor = pydlx.from_numpy(np.array(array)).to(getattr(pydlx, dtype))
    layout = draw(st.sampled_from(["plain", "transposed", "expanded", "strided", "windows", "gaps"]))
    if layout == "transposed" and tensor.ndim >= 2:
        tensor = tensor.transpose(0, -1)
    elif layout == "expanded" and tensor.ndim >= 1 and tensor.shape[0] == 1:
        tensor = tensor.expand(3, *tuple(tensor.shape)[1:])
    elif layout == "strided" and tensor.ndim >= 1:
        tensor = tensor[::2]
    elif layout == "windows" and tensor.ndim >= 1 and tensor.shape[-1] >= 2:
        tensor = tensor.unfold(-1, 2, 1)  # elements that lie in several rows
    elif layout == "gaps" and tensor.ndim >= 1 and dtype != "bfloat16":
        tensor = pydlx.from_numpy(np.repeat(np.asarray(tensor), 2, axis=-1)[..., ::2])  # its storage has no owner
    if tensor.dtype.is_floating_point and draw(st.booleans()):
        tensor = tensor.detach().requires_grad_(True)
    return tensor


integers = st.one_of(st.integers(-6, 6), st.sampled_from(HUGE))
numbers = st.one_of(integers, st.sampled_from(SPECIAL), st.booleans())
wrong = st.sampled_from(["text", b"bytes", {}, object(), [None], (1, "x"), lambda: 0])

STRATEGIES = {
    "Tensor": tensors(),
    "Operand": st.one_of(tensors(), numbers),
    "Tensor[]": st.lists(tensors(), max_size=4),
    "Tensor[*]": st.lists(tensors(), max_size=4),
    "Number": numbers,
    "int": integers,
    "float": numbers,
    "bool": st.booleans(),
    "str": st.sampled_from(
        ["mean", "sum", "none", "replicate", "reflect", "circular", "nonsense", "", "bilinear", "ij,jk->ik", "..."]
    ),
    "dtype": st.sampled_from([getattr(pydlx, d) for d in DTYPES]),
    "device": st.sampled_from(["cpu", "cuda", "cuda:99", "tpu"]),
    "Generator": st.builds(lambda s: pydlx.Generator().manual_seed(s), st.integers(0, 2**63)),
    "object": st.one_of(st.none(), tensors(), st.integers(-3, 3), st.lists(st.integers(-3, 3), max_size=3)),
    "int[]": st.lists(integers, max_size=5),
    "int[*]": st.lists(integers, max_size=5),
}


def parameters(signature):
    body = re.match(r"\w+\((.*)\)\s*->", signature, re.S).group(1)
    parts, depth, now = [], 0, ""
    for ch in body:
        depth += (ch in "([") - (ch in ")]")
        if ch == "," and depth == 0:
            parts.append(now.strip())
            now = ""
        else:
            now += ch
    parts += [now.strip()] if now.strip() else []
    keyword_only = False
    for part in parts:
        if part == "*":
            keyword_only = True
            continue
        left, _, default = part.partition("=")
        kind, name = left.strip().rsplit(" ", 1)
        yield name, kind.rstrip("?"), bool(default), keyword_only


def related(data, tensor):
    """The tensor itself, or another view of its memory."""
    how = data.draw(st.sampled_from(["same", "alias", "row", "strided", "transposed", "expanded", "bytes"]))
    if how == "same" or tensor.ndim == 0 or tensor.shape[0] == 0:
        return tensor
    if how == "row":
        return tensor[0]
    if how == "strided":
        return tensor[::2]
    if how == "transposed":
        return tensor.transpose(0, -1)
    if how == "expanded":
        return tensor[:1].expand(3, *tuple(tensor.shape)[1:])
    if how == "bytes" and tensor.is_contiguous() and tensor.stride(-1) == 1:
        return tensor.detach().view(pydlx.uint8)
    return tensor.detach()


def smaller(value):
    if isinstance(value, list):
        return [smaller(v) for v in value]
    return 2**9 if isinstance(value, int) and value == 2**31 else value


def draw_call(data, signature):
    args, kwargs, met = [], {}, []
    positional = True
    for name, kind, optional, keyword_only in parameters(signature.removesuffix(" [out]")):
        if optional and data.draw(st.booleans()):
            positional = False
            continue
        if kind.startswith("int[") and kind not in STRATEGIES:
            n = 1 if kind == "int[+]" else int(kind[4:-1])
            strategy = st.one_of(integers, st.lists(integers, min_size=n, max_size=n), st.lists(integers, max_size=5))
        else:
            strategy = STRATEGIES[kind]
        if met and kind in ("Tensor", "Operand") and data.draw(st.integers(0, 4)) == 0:
            value = related(data, data.draw(st.sampled_from(met)))
        else:
            value = data.draw(wrong if data.draw(st.integers(0, 30)) == 0 else strategy)
        if name in SIZES or (name in DRAWN and "Generator" in signature):
            value = smaller(value)
        met += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, pydlx.Tensor)]
        if positional and not keyword_only and kind != "int[*]":
            args.append(value)
        else:
            positional = False
            kwargs[name] = value
    if signature.endswith("[out]") and data.draw(st.integers(0, 2)) == 0:
        given = [pydlx.empty(0), pydlx.empty(0, dtype=pydlx.float64), *met]
        out = related(data, data.draw(st.sampled_from(given))) if data.draw(st.booleans()) else data.draw(tensors())
        kwargs["out"] = out if data.draw(st.integers(0, 5)) else (out, out)
    return args, kwargs


def exercise(data, result):
    """Uses a result: prints it, and runs backward when it can."""
    for r in result if isinstance(result, (tuple, list)) else [result]:
        if not isinstance(r, pydlx.Tensor) or r.numel() > 10_000:
            continue
        repr(r)
        if r.requires_grad and r.dtype.is_floating_point:
            try:
                r.backward(pydlx.ones_like(r), create_graph=data.draw(st.booleans()))
            except EXPECTED as error:
                assert str(error).startswith("["), f"message without op name: {error!r}"


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_survives(name):
    op = OPS[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data):
        signature = data.draw(st.sampled_from(op.__signatures__))
        args, kwargs = draw_call(data, signature)
        try:
            result = op(*args, **kwargs)
        except EXPECTED as error:
            assert str(error).startswith("["), f"{name}{args, kwargs}: message without op name: {error!r}"
            return
        exercise(data, result)

    run()
    # The process is still sound.
    assert float((pydlx.ones_like(pydlx.from_numpy(np.zeros(3))) * 2).sum()) == 6.0
