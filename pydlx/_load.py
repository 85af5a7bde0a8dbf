"""Loads the extension module. Imported before anything else of the package."""

import os

# The OpenMP runtime reads its settings once, when it is loaded. By default idle threads spin for milliseconds before
# they sleep; on a machine that also runs other programs, that made small training steps 10 to 20 times slower.
# Some tens of microseconds bridge the gap between two ops of a step, and leave the processor to others after that.
_SPINS = "2000"

_tune = not ({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys())
if _tune:
    os.environ["GOMP_SPINCOUNT"] = _SPINS
try:
    from . import _C  # noqa: F401
finally:
    if _tune:
        del os.environ["GOMP_SPINCOUNT"]
