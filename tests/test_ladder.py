"""The kernel ladders: every step compiles and agrees with float64, and a wrong step is refused."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "bench" / "ladder"

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="bench/ladder is not part of this source tree"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the ladders are compiled for x86-64"),
]


@pytest.fixture(scope="module")
def ladder():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        module = importlib.import_module("ladder")
    if module.compiler() is None:
        pytest.skip("no C++ compiler on the path")
    return module


@pytest.mark.parametrize("family", [p.stem for p in sorted(FOLDER.glob("*.cpp"))])
def test_every_step_agrees_with_float64(ladder, family, tmp_path):
    library = ladder.build(family, tmp_path)
    found = ladder.problems(family, small=True)
    for threads in (1, 2):
        library.set_threads(threads)
        for problem in found:
            steps = ladder.steps_of(library, problem.table)
            assert len(steps) >= 2
            for step in steps:
                output = ladder.aligned(*problem.output)
                name = f"{family}/{problem.title}/{step.name.decode()}"
                error = ladder.check(name, ladder.bind(step, problem, output), output, problem.reference_value)
                assert 0 < error <= ladder.TOLERANCE
    for problem in found:
        tensors = [ladder.pydlx.from_numpy(x) for x in problem.inputs]
        ladder.check(
            "pydlx", ladder.with_threads(2, problem.ours(ladder.pydlx, *tensors)), None, problem.reference_value
        )


def test_a_wrong_result_gets_no_time(ladder):
    wanted = np.ones((3, 5))
    output = np.empty((3, 5), np.float32)

    def forgets_one():
        output.reshape(-1)[:-1] = 1

    def adds_a_little():
        output.fill(1)
        output[1, 2] += 1e-3

    for step in (forgets_one, adds_a_little):
        with pytest.raises(ArithmeticError, match=step.__name__):
            ladder.check(step.__name__, step, output, wanted)


def test_rounds_alternate_and_keep_the_shortest(ladder):
    seen = []
    times = ladder.shortest([lambda: seen.append(0), lambda: seen.append(1)], rounds=3, slice_s=0.0)
    assert seen == [0, 1] * 3
    assert all(0 <= t < 0.1 for t in times)


def test_the_table_compares_with_the_step_before(ladder):
    rows = [
        {"step": "a", "idea": "", "threads": 1, "seconds": 4.0, "peak": 0.1, "error": 1e-6},
        {"step": "b", "idea": "", "threads": 1, "seconds": 2.0, "peak": 0.2, "error": 1e-6},
        {"step": "c", "idea": "", "threads": 2, "seconds": 1.0, "peak": 0.2, "error": 1e-6},
        {"step": "pydlx", "idea": "", "threads": 1, "seconds": 1.0, "peak": 0.4, "error": 1e-6},
        {"step": "pydlx", "idea": "", "threads": 2, "seconds": 0.5, "peak": 0.4, "error": 1e-6},
    ]
    text = ladder.table({"title": "t", "flops": 1e9, "peaks": {1: 1e10, 2: 2e10}, "rows": rows})
    assert [row["factor"] for row in rows] == [None, 2.0, 2.0, 2.0, 2.0]
    assert "10 on 1 thread, 20 on 2 threads" in text and text.count("2.00x") == 4


def test_an_unknown_family_is_refused(ladder):
    with pytest.raises(ValueError, match="expected one of gemm"):
        ladder.problems("fft")
