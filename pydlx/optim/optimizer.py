"""The base of all optimisers: parameter groups, state, checkpoints and hooks."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeAlias

from .. import Tensor
from .._C import fused_zero_
from ..autograd import enable_grad
from ..utils.hooks import RemovableHandle

__all__ = ["Optimizer", "ParamsT", "required"]

ParamsT: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Closure: TypeAlias = Callable[[], Any]


class _Required:
    """Stands in ``defaults`` for an option that has no default value."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()


class _Clock:
    """Counts the changes made to an optimiser's state, so that lists gathered from it know when they are stale."""

    __slots__ = ("ticks",)

    def __init__(self) -> None:
        self.ticks = 0


class TrackedDict(dict[Any, Any]):
    """A dict that ticks a clock on every change; pickles, copies and compares as a plain dict.

    ``state[p]`` is one of these. The fused steps keep lists of state tensors between steps, and this is how they
    notice that somebody replaced a tensor by hand, at no cost per step.
    """

    __slots__ = ("_clock",)

    def __init__(self, clock: _Clock, *args: Any) -> None:
        super().__init__(*args)
        self._clock = clock

    def __setitem__(self, key: Any, value: Any) -> None:
        self._clock.ticks += 1
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._clock.ticks += 1
        super().__delitem__(key)

    def __ior__(self, other: Any) -> TrackedDict:  # type: ignore[misc]
        self.update(other)
        return self

    def clear(self) -> None:
        self._clock.ticks += 1
        super().clear()

    def pop(self, *args: Any) -> Any:
        self._clock.ticks += 1
        return super().pop(*args)

    def popitem(self) -> tuple[Any, Any]:
        self._clock.ticks += 1
        return super().popitem()

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self._clock.ticks += 1
        return super().setdefault(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._clock.ticks += 1
        super().update(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return copy.deepcopy(dict(self), memo)


class StateMap(TrackedDict):
    """Parameter -> its state; a missing parameter gets an empty state, as in a ``defaultdict(dict)``."""

    __slots__ = ()

    def __missing__(self, key: Any) -> TrackedDict:
        entry = TrackedDict(self._clock)
        super().__setitem__(key, entry)
        return entry

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, dict):
            value = TrackedDict(self._clock, value)
        super().__setitem__(key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({k: dict(v) if isinstance(v, dict) else v for k, v in self.items()},)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return copy.deepcopy({k: dict(v) if isinstance(v, dict) else v for k, v in self.items()}, memo)


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a class's ``step`` so that it runs the hooks and notes for the schedulers that it has been called."""
    if getattr(step, "_runs_hooks", False):
        return step

    @functools.wraps(step)
    def wrapper(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if self._step_pre_hooks:
            for hook in tuple(self._step_pre_hooks.values()):
                changed = hook(self, args, kwargs)
                if changed is not None:
                    if not (isinstance(changed, tuple) and len(changed) == 2):
                        raise RuntimeError(
                            f"[{type(self).__name__}.step] pre hook: expected None or (args, kwargs), "
                            f"got {type(changed).__name__}"
                        )
                    args, kwargs = changed
        out = step(self, *args, **kwargs)
        self._opt_called = True
        if self._step_post_hooks:
            for hook in tuple(self._step_post_hooks.values()):
                hook(self, args, kwargs)
        return out

    wrapper._runs_hooks = True  # type: ignore[attr-defined]
    return wrapper


class Optimizer:
    """Base class of the optimisers.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dicts with the key ``"params"`` (one per group) whose other keys
            override the defaults for that group.
        defaults: the options every group gets unless it brings its own.

    Attributes:
        param_groups: list of dicts, each with ``"params"`` and the group's options. Options may be changed at any time.
        state: parameter -> dict of its state tensors.
        defaults: the options given at construction.

    Raises:
        TypeError: ``params`` is a single tensor or holds something that is not a tensor.
        ValueError: no parameters, a parameter that is not a leaf, the same parameter twice, a missing option.

    A subclass calls ``super().__init__(params, defaults)`` and defines ``step``, usually under ``no_grad()``.
    """

    _opt_called: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _with_hooks(cls.__dict__["step"])  # type: ignore[method-assign]

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self._init_hooks()
        op = type(self).__name__
        if isinstance(params, Tensor):
            raise TypeError(f"[{op}] params: expected an iterable of tensors or dicts, got one Tensor; pass [tensor]")
        if not isinstance(params, Iterable):
            raise TypeError(
                f"[{op}] params: expected an iterable of tensors or dicts, got {type(params).__name__}; "
                "pass module.parameters()"
            )
        self.state = StateMap(_Clock())
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError(f"[{op}] params: expected at least one parameter, got an empty list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)  # type: ignore[arg-type]

    def _init_hooks(self) -> None:
        # OrderedDict rather than dict because a RemovableHandle keeps a weak reference to it.
        self._step_pre_hooks: OrderedDict[int, Any] = OrderedDict()
        self._step_post_hooks: OrderedDict[int, Any] = OrderedDict()
        self._save_pre_hooks: OrderedDict[int, Any] = OrderedDict()
        self._save_post_hooks: OrderedDict[int, Any] = OrderedDict()
        self._load_pre_hooks: OrderedDict[int, Any] = OrderedDict()
        self._load_post_hooks: OrderedDict[int, Any] = OrderedDict()
        self._opt_called = False

    # -- groups ----------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, for instance layers that are unfrozen during training.

        Args:
            param_group: dict with ``"params"`` (a tensor, tensors, or ``(name, tensor)`` pairs) and options.
        """
        op = type(self).__name__
        if not isinstance(param_group, dict):
            raise TypeError(f"[{op}] param_group: expected a dict, got {type(param_group).__name__}")
        if "params" not in param_group:
            raise ValueError(f"[{op}] param_group: expected the key 'params', got keys {sorted(param_group)}")
        entries = param_group["params"]
        if isinstance(entries, Tensor):
            entries = [entries]
        elif isinstance(entries, (set, frozenset)):
            raise TypeError(
                f"[{op}] params: expected an ordered collection, got a set, whose order changes from run to run"
            )
        else:
            entries = list(entries)
        names: list[str] = []
        tensors: list[Tensor] = []
        for entry in entries:
            if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
                names.append(entry[0])
                entry = entry[1]
            if not isinstance(entry, Tensor):
                raise TypeError(f"[{op}] params: expected tensors, got {type(entry).__name__}")
            if not (entry.is_leaf or entry.retains_grad):
                raise ValueError(
                    f"[{op}] params: expected leaf tensors, got a result of an operation; optimise its inputs"
                )
            tensors.append(entry)
        if names and len(names) != len(tensors):
            raise ValueError(
                f"[{op}] params: expected a name for each parameter or for none, "
                f"got {len(names)} names for {len(tensors)}"
            )
        named_before = self.param_groups and "param_names" in self.param_groups[0]
        if self.param_groups and bool(names) != bool(named_before):
            raise ValueError(f"[{op}] params: expected all groups named or none, got a mixture")
        seen = {id(p) for p in chain.from_iterable(g["params"] for g in self.param_groups)}
        for tensor in tensors:
            if id(tensor) in seen:
                raise ValueError(
                    f"[{op}] params: expected each parameter once, got one of shape {tuple(tensor.shape)} twice"
                )
            seen.add(id(tensor))
        group = {**param_group, "params": tensors}
        if names:
            group["param_names"] = names
        for name, value in self.defaults.items():
            if value is required and name not in group:
                raise ValueError(f"[{op}] {name}: expected a value for every group, got none")
            group.setdefault(name, value)
        self._check_group(group)
        self.param_groups.append(group)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Validate one group's options; subclasses raise here, so bad per-group options fail like bad defaults."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros when ``set_to_none`` is False."""
        kept: list[Tensor] = []
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif (grad := p.grad) is not None:
                    if grad.grad_fn is not None:
                        p.grad = grad = grad.detach()
                    else:
                        grad.requires_grad_(False)
                    kept.append(grad)
        if kept:
            fused_zero_(kept)

    def step(self, closure: Closure | None = None) -> Any:
        """Make one update of all parameters; subclasses define it.

        Args:
            closure: clears the gradients, computes the loss, calls backward and returns the loss. Optional for most.
        """
        raise NotImplementedError(f"[{type(self).__name__}] step: expected the subclass to define it")

    # -- hooks -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _register(hooks: OrderedDict[int, Any], hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        if not callable(hook):
            raise TypeError(f"[Optimizer] hook: expected a callable, got {type(hook).__name__}")
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        if prepend:
            hooks.move_to_end(handle.id, last=False)
        return handle

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(optimizer, args, kwargs)`` runs before every step and may return replaced ``(args, kwargs)``."""
        return self._register(self._step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(optimizer, args, kwargs)`` runs after every step."""
        return self._register(self._step_post_hooks, hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(optimizer)`` runs before ``state_dict``."""
        return self._register(self._save_pre_hooks, hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(optimizer, state_dict)`` runs after ``state_dict`` and may return a replacement."""
        return self._register(self._save_post_hooks, hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(optimizer, state_dict)`` runs before ``load_state_dict`` and may return a replacement."""
        return self._register(self._load_pre_hooks, hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(optimizer)`` runs after ``load_state_dict``."""
        return self._register(self._load_post_hooks, hook, prepend)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state in PyTorch's layout: ``{"state": {index: {...}}, "param_groups": [...]}``.

        Parameters are replaced by their running index over all groups. The tensors are the live ones, not copies.
        """
        for hook in tuple(self._save_pre_hooks.values()):
            hook(self)
        index = {id(p): i for i, p in enumerate(chain.from_iterable(g["params"] for g in self.param_groups))}
        groups = [{**g, "params": [index[id(p)] for p in g["params"]]} for g in self.param_groups]
        for group in groups:
            group["params"] = group.pop("params")  # PyTorch lists the parameters last
        state = {
            index[id(key)] if isinstance(key, Tensor) else key: dict(value) if isinstance(value, dict) else value
            for key, value in self.state.items()
        }
        saved: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in tuple(self._save_post_hooks.values()):
            saved = hook(self, saved) or saved
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, here or in PyTorch.

        Float state is cast to its parameter's dtype and device, except ``step``, which stays float32 on the CPU.

        Raises:
            ValueError: another number of groups or of parameters in a group.
        """
        op = f"{type(self).__name__}.load_state_dict"
        for hook in tuple(self._load_pre_hooks.values()):
            state_dict = hook(self, state_dict) or state_dict
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            raise ValueError(
                f"[{op}] state_dict: expected a dict with 'state' and 'param_groups', got {_describe(state_dict)}"
            )
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) != len(self.param_groups):
            raise ValueError(f"[{op}] param_groups: expected {len(self.param_groups)} groups, got {len(saved_groups)}")
        params: dict[Any, Tensor] = {}
        for i, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            if len(group["params"]) != len(saved["params"]):
                raise ValueError(
                    f"[{op}] param_groups[{i}]: expected {len(group['params'])} parameters, got {len(saved['params'])}"
                )
            params.update(zip(saved["params"], group["params"], strict=True))
        state = StateMap(_Clock())
        for key, value in state_dict["state"].items():
            if key in params:
                state[params[key]] = _fit_state(params[key], value)
            else:
                state[key] = value
        groups = []
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            new = {k: copy.deepcopy(v) for k, v in saved.items() if k not in ("params", "param_names")}
            new["params"] = group["params"]
            if "param_names" in group:
                new["param_names"] = group["param_names"]
            groups.append(new)
        self.__setstate__({"state": state, "param_groups": groups})
        for hook in tuple(self._load_post_hooks.values()):
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_step_pre_hooks" not in self.__dict__:
            self._init_hooks()
        if not isinstance(self.state, StateMap):  # unpickled or deep-copied
            plain, self.state = self.state, StateMap(_Clock())
            for key, value in plain.items():
                self.state[key] = value
        for group in self.param_groups:  # options that the version which wrote the checkpoint did not have
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __repr__(self) -> str:
        groups = [
            "\n".join(
                [f"Parameter Group {i}", *(f"    {key}: {group[key]}" for key in sorted(group) if key != "params")]
            )
            for i, group in enumerate(self.param_groups)
        ]
        return f"{type(self).__name__} (\n" + "\n\n".join(groups) + "\n)"


def _describe(value: Any) -> str:
    return f"keys {list(value)}" if isinstance(value, dict) else type(value).__name__


def _fit_state(param: Tensor, value: Any, name: str | None = None) -> Any:
    """A copy of loaded state, moved to where its parameter lives."""
    if isinstance(value, Tensor):
        if name == "step":
            return value.detach().clone()
        if param.is_floating_point() and value.is_floating_point():
            return value.detach().to(device=param.device, dtype=param.dtype, copy=True)
        return value.detach().to(device=param.device, copy=True)
    if isinstance(value, dict):
        return {k: _fit_state(param, v, k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fit_state(param, v) for v in value)
    return value


def run_closure(closure: Closure | None) -> Any:
    """Evaluate the closure of a step with gradients switched on; None without a closure."""
    if closure is None:
        return None
    with enable_grad():
        return closure()
