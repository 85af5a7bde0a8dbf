"""What the graph keeps for backward, in other hands."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from .. import _C
from .._C import Tensor

__all__ = ["save_on_cpu", "saved_tensors_hooks"]


class saved_tensors_hooks:
    """A block whose operations hand each tensor they would keep for backward to ``pack_hook`` and keep what that returns.

    Backward gives it to ``unpack_hook`` whenever it needs the tensor. Of nested blocks the innermost is in force. Hooks run
    under :class:`~pydlx.no_grad`; changes in place of a tensor that a hook kept are not noticed.

    Args:
        pack_hook: function of a tensor that returns anything.
        unpack_hook: function of what ``pack_hook`` returned, which returns a tensor of the same values, shape and dtype.

    Raises:
        GradientError: in backward, if the tensor has another shape or dtype.
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]) -> None:
        for name, hook in (("pack_hook", pack_hook), ("unpack_hook", unpack_hook)):
            if not callable(hook):
                raise TypeError(f"[saved_tensors_hooks] {name}: expected a function, got {type(hook).__name__}")
        self.pack_hook = pack_hook
        self.unpack_hook = unpack_hook

    def __enter__(self) -> None:
        _C._push_saved_tensors_hooks(self.pack_hook, self.unpack_hook)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _C._pop_saved_tensors_hooks()


class save_on_cpu(saved_tensors_hooks):
    """A block whose operations keep the tensors for backward in the host's memory and copy them back in backward.

    Args:
        pin_memory: keep them in page-locked memory, from which copies to a GPU do not wait. Default: ``False``.
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        def pack(tensor: Tensor) -> tuple[Any, Tensor]:
            kept = tensor.cpu()
            return tensor.device, kept.pin_memory() if pin_memory else kept

        def unpack(packed: tuple[Any, Tensor]) -> Tensor:
            device, kept = packed
            return kept.to(device, non_blocking=pin_memory)

        super().__init__(pack, unpack)
