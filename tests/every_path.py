"""Results that must not depend on where they are computed."""

from __future__ import annotations

import pydlx

ISAS = pydlx._C.build_info()["cpu_isas"]


def on_every_path(f):
    """f() as an array; every instruction set and one, two and three threads give the same bits, or the test fails."""
    results, threads = {}, pydlx.get_num_threads()
    try:
        for isa in ISAS:
            pydlx._C._set_cpu_isa(isa)
            for count in (1, 2, 3):
                pydlx.set_num_threads(count)
                results[isa, count] = f().numpy()
    finally:
        pydlx._C._set_cpu_isa(ISAS[-1])
        pydlx.set_num_threads(threads)
    first = next(iter(results.values()))
    for where, other in results.items():
        assert other.tobytes() == first.tobytes(), f"other bits on {where}"
    return first
