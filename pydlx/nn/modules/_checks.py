"""What constructors of modules check about their arguments."""

from __future__ import annotations

import numbers
import operator
from typing import Any


def require_integers(owner: object, **sizes: Any) -> None:
    """Refuses sizes that are no integers, under the names of the arguments."""
    for name, value in sizes.items():
        try:
            operator.index(value)
        except TypeError:
            got = type(value).__name__
            raise TypeError(f"[{type(owner).__name__}] {name}: expected an integer, got {got}") from None


def require_numbers(owner: object, **options: Any) -> None:
    """Refuses options that are no numbers, under the names of the arguments."""
    for name, value in options.items():
        if not isinstance(value, numbers.Real):
            raise TypeError(f"[{type(owner).__name__}] {name}: expected a number, got {type(value).__name__}")
