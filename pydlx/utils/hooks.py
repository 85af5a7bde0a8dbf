"""Handles for registered hooks."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import MutableMapping
from typing import Any

_next_id = itertools.count()


class RemovableHandle:
    """Returned by every ``register_*hook``; ``remove()`` (or leaving a ``with`` block) takes the hook out again.

    Args:
        hooks_dict: the mapping that holds the hook under ``handle.id``.
        extra_dict: further mappings (or a list of them) keyed by the same id, cleaned together with it.

    The mapping is held weakly where it allows that, so a forgotten handle never keeps a module alive.
    """

    __slots__ = ("_dicts", "id")

    def __init__(self, hooks_dict: MutableMapping[int, Any], *, extra_dict: Any = None) -> None:
        self.id = next(_next_id)
        extra = [] if extra_dict is None else extra_dict if isinstance(extra_dict, list) else [extra_dict]
        self._dicts = [_reference(d) for d in (hooks_dict, *extra)]

    def remove(self) -> None:
        """Takes the hook out; a second call does nothing."""
        for reference in self._dicts:
            hooks = reference()
            if hooks is not None:
                hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


def _reference(hooks: MutableMapping[int, Any]) -> Any:
    try:
        return weakref.ref(hooks)
    except TypeError:  # a plain dict takes no weak references
        return lambda: hooks
