"""Saving and loading of module state: the part of Module behind state_dict and load_state_dict."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._C import Tensor
from ...autograd import no_grad
from ...utils.hooks import RemovableHandle
from ..parameter import Parameter

if TYPE_CHECKING:
    from .module import Module

EXTRA_STATE_KEY = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict`` could not match. Both lists are empty after a complete load."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"

    def __str__(self) -> str:
        return repr(self)


class StateMixin:
    """``state_dict`` and ``load_state_dict`` with their hooks. Keys are attribute paths joined with dots."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent_buffers_set: set[str]
    _state_dict_hooks: dict[int, Callable[..., Any]]
    _state_dict_pre_hooks: dict[int, Callable[..., Any]]
    _load_state_dict_pre_hooks: dict[int, tuple[Callable[..., Any], bool]]
    _load_state_dict_post_hooks: dict[int, Callable[..., Any]]

    # Written into state_dict()._metadata; a module that changes its layout raises it and upgrades old files.
    _version: int = 1

    def get_extra_state(self) -> Any:
        """Override to store anything beside tensors in the state dict, under the key ``_extra_state``."""
        raise NotImplementedError(
            f"[get_extra_state] {type(self).__name__}: expected an override, got the base method; "
            "define get_extra_state and set_extra_state together"
        )

    def set_extra_state(self, state: Any) -> None:
        """Override to take back what ``get_extra_state`` returned."""
        raise NotImplementedError(
            f"[set_extra_state] {type(self).__name__}: expected an override, got the base method; "
            "define get_extra_state and set_extra_state together"
        )

    def _stores_extra_state(self) -> bool:
        return type(self).get_extra_state is not StateMixin.get_extra_state

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, param in self._parameters.items():
            if param is not None:
                destination[prefix + name] = param if keep_vars else param.detach()
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:
                destination[prefix + name] = buffer if keep_vars else buffer.detach()
        if self._stores_extra_state():
            destination[prefix + EXTRA_STATE_KEY] = self.get_extra_state()

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> OrderedDict[str, Any]:
        """All parameters and persistent buffers by dotted name, without autograd history, sharing storage.

        Args:
            destination: a mapping to fill instead of a new one.
            prefix: put before every key. Default: ``""``.
            keep_vars: give the parameters themselves, with history. Default: ``False``.
        """
        if args:  # the older positional form
            given = dict(zip(("destination", "prefix", "keep_vars"), args, strict=False))
            destination = given.get("destination", destination)
            prefix, keep_vars = given.get("prefix", prefix), given.get("keep_vars", keep_vars)
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        local_metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        for hook in list(self._state_dict_pre_hooks.values()):
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=prefix + name + ".", keep_vars=keep_vars)
        for hook in list(self._state_dict_hooks.values()):
            result = hook(self, destination, prefix, local_metadata)
            if result is not None:
                destination = result
        return destination  # type: ignore[no-any-return]

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        for name, param in self._parameters.items():
            if param is not None:
                yield name, param
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:
                yield name, buffer

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Copies this module's own entries (not its children's); problems are appended to the three lists."""
        for hook, with_module in list(self._load_state_dict_pre_hooks.values()):
            args = (state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
            hook(self, *args) if with_module else hook(*args)
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, own in list(self._own_state()):
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
                continue
            given = state_dict[key]
            if not isinstance(given, Tensor):
                error_msgs.append(f"{key}: expected a Tensor, got {type(given).__name__}")
                continue
            if given.ndim == 1 and own.ndim == 0 and given.numel() == 1:
                given = given[0]  # scalars used to be written as one-element vectors
            if tuple(given.shape) != tuple(own.shape):
                error_msgs.append(f"size mismatch for {key}: expected {_shape(own)}, got {_shape(given)}")
                continue
            try:
                if assign:
                    if isinstance(own, Parameter) and not isinstance(given, Parameter):
                        given = Parameter(given, own.requires_grad)
                    setattr(self, name, given)
                else:
                    with no_grad():
                        own.copy_(given)
            except Exception as error:
                error_msgs.append(f"{key}: copying {_shape(given)} failed: {error}")
        extra_key = prefix + EXTRA_STATE_KEY
        if self._stores_extra_state():
            if extra_key in state_dict:
                self.set_extra_state(state_dict[extra_key])
            else:
                missing_keys.append(extra_key)
        if strict:
            known = {name for name, _ in self._own_state()} | set(self._modules)
            if self._stores_extra_state():
                known.add(EXTRA_STATE_KEY)
            for key in state_dict:
                if key.startswith(prefix) and (key != extra_key or EXTRA_STATE_KEY not in known):
                    first, dot, _ = key[len(prefix) :].partition(".")
                    if first not in known or (dot and first not in self._modules):
                        unexpected_keys.append(key)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copies values from ``state_dict`` into this module and its descendants, converting dtype and device.

        Args:
            state_dict: mapping from dotted names to tensors, as ``state_dict()`` gives it.
            strict: raise when keys are missing or left over. Default: ``True``.
            assign: put the given tensors in place of ours instead of copying into ours. Default: ``False``.

        Returns:
            A named tuple ``(missing_keys, unexpected_keys)``.

        Raises:
            TypeError: ``state_dict`` is not a mapping.
            RuntimeError: shapes differ, or (``strict``) keys are missing or unexpected. Every problem is listed, and
                what does fit has been loaded.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"[load_state_dict] state_dict: expected a mapping, got {type(state_dict).__name__}")
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        metadata = getattr(state_dict, "_metadata", None)
        entries: OrderedDict[str, Any] = OrderedDict(state_dict)
        if metadata is not None:
            entries._metadata = metadata  # type: ignore[attr-defined]

        def load(module: StateMixin, local_state: Mapping[str, Any], prefix: str) -> None:
            local = {} if metadata is None else metadata.get(prefix[:-1], {})
            if assign:
                local = {**local, "assign_to_params_buffers": True}
            module._load_from_state_dict(local_state, prefix, local, True, missing, unexpected, errors)
            for name, child in module._modules.items():
                if child is not None:
                    inner = prefix + name + "."
                    load(child, {k: v for k, v in local_state.items() if k.startswith(inner)}, inner)
            result = IncompatibleKeys(missing, unexpected)
            for hook in list(module._load_state_dict_post_hooks.values()):
                hook(module, result)

        load(self, entries, "")
        problems = []
        if strict and missing:
            problems.append(f"missing keys ({len(missing)}): " + _quoted(missing))
        if strict and unexpected:
            problems.append(f"unexpected keys ({len(unexpected)}): " + _quoted(unexpected))
        problems += errors
        if problems:
            remedy = "" if errors else "\n  remedy: pass strict=False to load the keys that match"
            raise RuntimeError(
                f"[load_state_dict] state_dict: expected the keys and shapes of {type(self).__name__}, got\n  "
                + "\n  ".join(problems)
                + remedy
            )
        return IncompatibleKeys(missing, unexpected)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, prefix, keep_vars)`` runs before ``state_dict`` collects this module."""
        return _register(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, state_dict, prefix, local_metadata)`` may edit ``state_dict`` in place."""

        def wrapped(*args: Any) -> None:
            if hook(*args) is not None:
                raise RuntimeError(
                    "[register_state_dict_post_hook] hook: expected it to edit state_dict in place and return None"
                )

        return _register(self._state_dict_hooks, wrapped)

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        return _register(self._state_dict_hooks, hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)``."""
        return _register(self._load_state_dict_pre_hooks, (hook, True))

    def _register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], with_module: bool = False
    ) -> RemovableHandle:
        return _register(self._load_state_dict_pre_hooks, (hook, with_module))

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, incompatible_keys)`` runs after this module's state is loaded; it may edit the two lists."""
        return _register(self._load_state_dict_post_hooks, hook)


def _register(hooks: dict[int, Any], hook: Any) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def _shape(tensor: Tensor) -> str:
    return "shape " + str(tuple(tensor.shape))


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
