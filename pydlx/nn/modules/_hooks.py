"""Calling a module: the fast path, forward and backward hooks, and the module path in error messages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..._C import Tensor
from ...autograd import Function, is_grad_enabled
from ...utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from .module import Module

# Hooks that run for every module in the process, before the module's own.
_global_forward_pre_hooks: dict[int, Callable[..., Any]] = {}
_global_forward_hooks: dict[int, Callable[..., Any]] = {}
_global_backward_pre_hooks: dict[int, Callable[..., Any]] = {}
_global_backward_hooks: dict[int, Callable[..., Any]] = {}
_global_with_kwargs: dict[int, bool] = {}
_global_always_called: dict[int, bool] = {}


class HookMixin:
    """``__call__`` and hook registration.

    ``_hooked`` is the one thing a plain call looks at. It is a class attribute that is False; registering a hook
    shadows it with True on the instance (or, for process-wide hooks, raises it on the class), and the slow path lowers
    it again once every hook is gone.
    """

    _hooked = False
    _forward_pre_hooks: dict[int, Callable[..., Any]]
    _forward_pre_hooks_with_kwargs: dict[int, bool]
    _forward_hooks: dict[int, Callable[..., Any]]
    _forward_hooks_with_kwargs: dict[int, bool]
    _forward_hooks_always_called: dict[int, bool]
    _backward_hooks: dict[int, Callable[..., Any]]
    _backward_pre_hooks: dict[int, Callable[..., Any]]
    forward: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._hooked:
                return self._call_hooked(args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            _add_module_path(error, self)
            raise

    def _call_hooked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._lower_flags()
        result = None
        pending = {
            **{k: h for k, h in _global_forward_hooks.items() if k in _global_always_called},
            **{k: h for k, h in self._forward_hooks.items() if k in self._forward_hooks_always_called},
        }
        try:
            args, kwargs = self._run_pre_hooks(args, kwargs)
            gate = None
            backward_hooks = [*_global_backward_hooks.values(), *self._backward_hooks.values()]
            backward_pre_hooks = [*_global_backward_pre_hooks.values(), *self._backward_pre_hooks.values()]
            if backward_hooks or backward_pre_hooks:
                gate = _BackwardGate(self, backward_hooks, backward_pre_hooks)
                args = gate.enter(args)
            result = self.forward(*args, **kwargs)
            for key, hook in [*_global_forward_hooks.items(), *self._forward_hooks.items()]:
                pending.pop(key, None)
                changed = self._run_forward_hook(key, hook, args, kwargs, result)
                if changed is not None:
                    result = changed
            return result if gate is None else gate.leave(result)
        except Exception:
            for key, hook in pending.items():
                try:
                    self._run_forward_hook(key, hook, args, kwargs, result)
                except Exception as second:
                    warnings.warn(f"a forward hook with always_call=True raised as well: {second}", stacklevel=3)
            raise

    def _run_pre_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for key, hook in [*_global_forward_pre_hooks.items(), *self._forward_pre_hooks.items()]:
            if key in self._forward_pre_hooks_with_kwargs:
                changed = hook(self, args, kwargs)
                if changed is not None:
                    if not (isinstance(changed, tuple) and len(changed) == 2):
                        raise RuntimeError(
                            "[register_forward_pre_hook] hook: expected None or a tuple (args, kwargs) "
                            f"with with_kwargs=True, got {type(changed).__name__}"
                        )
                    args, kwargs = changed
            else:
                changed = hook(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        return args, kwargs

    def _run_forward_hook(
        self, key: int, hook: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        if key in self._forward_hooks_with_kwargs or key in _global_with_kwargs:
            return hook(self, args, kwargs, result)
        return hook(self, args, result)

    def _lower_flags(self) -> None:
        """Returns to the fast path on the next call if no hook is left."""
        if not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks):
            self.__dict__.pop("_hooked", None)
        if HookMixin._hooked and not (
            _global_forward_hooks or _global_forward_pre_hooks or _global_backward_hooks or _global_backward_pre_hooks
        ):
            HookMixin._hooked = False

    def _add_hook(self, hooks: dict[int, Any], hook: Any, prepend: bool, flags: Sequence[dict[int, bool]] = ()) -> Any:
        handle = RemovableHandle(hooks, extra_dict=list(flags))
        self.__dict__["_hooked"] = True
        _insert(hooks, handle.id, hook, prepend)
        for flag in flags:
            flag[handle.id] = True
        return handle

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """``hook(module, args)`` runs before ``forward`` and may return new arguments (a tuple or a single value).

        Args:
            prepend: run before the hooks registered so far. Default: ``False``.
            with_kwargs: call ``hook(module, args, kwargs)``, which returns None or ``(args, kwargs)``.
        """
        flags = [self._forward_pre_hooks_with_kwargs] if with_kwargs else []
        return self._add_hook(self._forward_pre_hooks, hook, prepend, flags)  # type: ignore[no-any-return]

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """``hook(module, args, output)`` runs after ``forward`` and may return a new output.

        Args:
            prepend: run before the hooks registered so far. Default: ``False``.
            with_kwargs: call ``hook(module, args, kwargs, output)``.
            always_call: run even when ``forward`` raised (with ``output`` None).
        """
        flags = [self._forward_hooks_with_kwargs] if with_kwargs else []
        flags += [self._forward_hooks_always_called] if always_call else []
        return self._add_hook(self._forward_hooks, hook, prepend, flags)  # type: ignore[no-any-return]

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(module, grad_output)`` runs when the gradient of the output is known and may return a new one."""
        return self._add_hook(self._backward_pre_hooks, hook, prepend)  # type: ignore[no-any-return]

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(module, grad_input, grad_output)`` runs when the gradients of the inputs are known.

        Both gradients are tuples, with None where there is no gradient. A returned tuple replaces ``grad_input``.
        Inputs and outputs must not be changed in place by the module.
        """
        return self._add_hook(self._backward_hooks, hook, prepend)  # type: ignore[no-any-return]

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Left out: it reported the gradients of the last operation only."""
        raise NotImplementedError(
            "[register_backward_hook] expected register_full_backward_hook, got the older form; use "
            "register_full_backward_hook, which reports the gradients of the whole module"
        )


class _Tap(Function):
    """Identity on tensors whose backward hands all gradients to a callback at once."""

    @staticmethod
    def forward(ctx: Any, callback: Callable[..., Any], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.callback = callback
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.callback(grads)


class _BackwardGate:
    """Wraps one call of a module between two taps, so that its hooks see the gradients that pass in and out."""

    def __init__(self, module: Any, hooks: list[Callable[..., Any]], pre_hooks: list[Callable[..., Any]]) -> None:
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.grad_output: tuple[Tensor | None, ...] | None = None
        self.inputs_tapped = False
        self.number_of_inputs = 0

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.number_of_inputs = len(args)
        args, self.inputs_tapped = _tap(args, self._inputs_ready)
        return args

    def leave(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            return _tap((result,), self._outputs_ready)[0][0]
        if isinstance(result, (tuple, list)):
            tapped, _ = _tap(tuple(result), self._outputs_ready)
            if hasattr(result, "_fields"):
                return type(result)(*tapped)
            return type(result)(tapped)
        warnings.warn(
            f"backward hooks of {type(self.module).__name__} do not run: its output is a {type(result).__name__}, "
            "and gradients are followed through a tensor or a tuple or list of tensors",
            stacklevel=4,
        )
        return result

    def _outputs_ready(self, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        for hook in self.pre_hooks:
            grads = _replaced(hook(self.module, grads), grads, "register_full_backward_pre_hook")
        self.grad_output = grads
        if not self.inputs_tapped:
            nothing = (None,) * self.number_of_inputs
            for hook in self.hooks:
                if hook(self.module, nothing, grads) is not None:
                    raise RuntimeError(
                        "[register_full_backward_hook] hook: expected None because no input of the module needs a "
                        "gradient, got a replacement gradient"
                    )
        return grads

    def _inputs_ready(self, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        if self.grad_output is None:  # the inputs reached the loss without passing the module's output
            return grads
        for hook in self.hooks:
            grads = _replaced(hook(self.module, grads, self.grad_output), grads, "register_full_backward_hook")
        self.grad_output = None
        return grads


def _tap(values: tuple[Any, ...], callback: Callable[..., Any]) -> tuple[tuple[Any, ...], bool]:
    """Puts a tap on every tensor that carries a gradient; the callback sees all positions, None where untapped."""
    picked = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    if not picked or not is_grad_enabled():
        return values, False

    def spread(grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        full: list[Tensor | None] = [None] * len(values)
        for i, grad in zip(picked, grads, strict=True):
            full[i] = grad
        replaced = callback(tuple(full))
        return [replaced[i] for i in picked]

    wired = list(values)
    for i, tensor in zip(picked, _Tap.apply(spread, *[values[i] for i in picked]), strict=True):
        wired[i] = tensor
    return tuple(wired), True


def _replaced(answer: Any, grads: tuple[Tensor | None, ...], where: str) -> tuple[Tensor | None, ...]:
    if answer is None:
        return grads
    answer = answer if isinstance(answer, tuple) else (answer,)
    if len(answer) != len(grads):
        raise RuntimeError(f"[{where}] hook: expected None or {len(grads)} gradients, got {len(answer)}")
    return answer  # type: ignore[no-any-return]


def _insert(hooks: dict[int, Any], key: int, hook: Any, first: bool) -> None:
    if not first:
        hooks[key] = hook
        return
    before = dict(hooks)
    hooks.clear()
    hooks[key] = hook
    hooks.update(before)


def _add_global(hooks: dict[int, Any], hook: Any, flags: Sequence[dict[int, bool]] = ()) -> RemovableHandle:
    handle = RemovableHandle(hooks, extra_dict=list(flags))
    hooks[handle.id] = hook
    for flag in flags:
        flag[handle.id] = True
    HookMixin._hooked = True
    return handle


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, args)`` before the forward of every module in the process."""
    return _add_global(_global_forward_pre_hooks, hook)


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """``hook(module, args, output)`` after the forward of every module in the process."""
    flags = [_global_with_kwargs] if with_kwargs else []
    flags += [_global_always_called] if always_call else []
    return _add_global(_global_forward_hooks, hook, flags)


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, grad_output)`` before the backward of every module in the process."""
    return _add_global(_global_backward_pre_hooks, hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, grad_input, grad_output)`` after the backward of every module in the process."""
    return _add_global(_global_backward_hooks, hook)


def _add_module_path(error: Exception, module: Any) -> None:
    """Says in the error which module raised it: called once per enclosing module, from the inside out.

    The engine's own messages (``[op] ...``) gain `` (in Net.layers.2 (Linear))``; other exceptions keep their message
    and carry the same words as a note, because a program may compare messages it raised itself.
    """
    child, path, leaf, words = getattr(error, "_module_trail", (None, "", type(module).__name__, ""))
    if child is not None:
        name = next((n for n, m in _descendants(module) if m is child), type(child).__name__)
        path = f"{name}.{path}" if path else name
    told = f" (in {type(module).__name__}.{path} ({leaf}))" if path else f" (in {leaf})"
    notes = getattr(error, "__notes__", None)
    if error.args and isinstance(error.args[0], str) and error.args[0].startswith("["):
        error.args = (error.args[0].removesuffix(words) + told, *error.args[1:])
    elif notes is not None and words in notes:
        notes[notes.index(words)] = told
    elif hasattr(error, "add_note"):
        error.add_note(told)
    error._module_trail = (module, path, leaf, told)  # type: ignore[attr-defined]


def _descendants(module: Module) -> Iterator[tuple[str, Module]]:
    return module.named_modules() if hasattr(module, "named_modules") else iter(())
