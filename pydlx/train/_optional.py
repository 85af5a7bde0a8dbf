"""Packages that only training needs, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["require"]

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def require(module: str, purpose: str) -> Any:
    """Import an optional module, or say which extra brings it.

    Args:
        module: dotted name. purpose: what it is needed for, completing "... needs X".

    Raises:
        ImportError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        raise ImportError(
            f"[pydlx.train] {purpose} needs {_DISTRIBUTIONS.get(top, top)}, which is not installed ({error}); "
            'install the extra: pip install "pydlx[demo]"'
        ) from None
