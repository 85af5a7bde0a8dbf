"""The machinery of the optimisers whose whole step is one native call.

A native multi-tensor step wants lists: parameters, gradients, and one list per kind of state. Looking those up costs
more than updating a small network, so they are gathered once into a ``Plan`` and reused while nothing changes: the same
parameters have gradients, the group's flags are the same, and nobody replaced a state tensor (``TrackedDict`` ticks).
Parameters that differ in device, dtype or step count cannot share a call and go into separate buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

from .. import Tensor, empty, float32, float64, tensor
from ..autograd import enable_grad
from ..cuda import default_stream, is_current_stream_capturing, stream
from ..cuda._graphs import before_replay
from .optimizer import Optimizer

__all__ = ["Bucket", "FusedOptimizer"]


class Bucket:
    """Parameters updated by one native call, with their state lists in the order of the optimiser's ``_slots``.

    Attributes:
        params: the parameters. picks: their positions among the group's gradients, None when the bucket has them all.
        slots: state lists, one per slot; empty lists for the slots the group's options leave unused.
        step: updates made so far. step_tensor: the same number as the 0-d tensor that ``state[p]["step"]`` shows,
            shared by the whole bucket, so that counting costs one small write per step.
        fresh: no update has been made yet with these buffers (momentum starts from the first gradient).
        live: for a recorded update, where it reads the numbers that change from step to step; None outside of graphs.
    """

    __slots__ = ("fresh", "live", "params", "picks", "slots", "step", "step_tensor", "step_version")

    def __init__(
        self, params: list[Tensor], picks: list[int] | None, slots: list[list[Tensor]], step: int, fresh: bool
    ) -> None:
        self.params, self.picks, self.slots, self.step, self.fresh = params, picks, slots, step, fresh
        self.step_tensor: Tensor | None = None
        self.step_version = 0
        self.live: Tensor | None = None


class Plan:
    """What was gathered for one group, and the facts that make it valid."""

    __slots__ = ("all_params", "buckets", "flags", "idle", "live", "state", "ticks")

    def __init__(self, all_params: list[Tensor], flags: Any) -> None:
        self.all_params = list(all_params)
        self.live = [p for p in all_params if p.grad is not None]
        self.idle = [p for p in all_params if p.grad is None]
        self.flags = flags
        self.buckets: list[Bucket] = []
        self.state: Any = None
        self.ticks = -1

    def fits(self, params: list[Tensor], grads: list[Tensor], flags: Any, state: Any) -> bool:
        """Whether the gathered lists still describe the group."""
        return (
            state is self.state
            and state._clock.ticks == self.ticks
            and len(grads) == len(self.live)
            and len(params) == len(self.all_params)
            and flags == self.flags
            and all(map(is_, params, self.all_params))
            and (not self.idle or all(p.grad is None for p in self.idle))
            and all(b.step_tensor is None or b.step_tensor._version == b.step_version for b in self.buckets)
        )


class FusedOptimizer(Optimizer):
    """An optimiser that gathers its lists into plans and leaves the arithmetic to one native call per bucket.

    Subclasses define ``_counts`` (whether state holds ``step``), ``_flags``, ``_slots`` and ``_launch``.
    """

    _counts = True

    def _flags(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """The options that decide which state exists; a change makes the plan stale."""
        raise NotImplementedError

    def _slots(self, group: dict[str, Any]) -> list[tuple[str, bool, Callable[[Tensor], Tensor]]]:
        """(state key, in use, how to make it for a parameter) for every state list of the native call."""
        raise NotImplementedError

    def _launch(self, group: dict[str, Any], bucket: Bucket, grads: list[Tensor]) -> None:
        """Call the native step for one bucket."""
        raise NotImplementedError

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans: dict[int, Plan] = {}

    def _init_hooks(self) -> None:
        super()._init_hooks()
        self._plans = {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: clears the gradients, computes the loss, calls backward and returns the loss.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            params = group["params"]
            grads = [grad for p in params if (grad := p.grad) is not None]
            if not grads:
                continue
            flags = self._flags(group)
            plan = self._plans.get(number)
            if plan is None or not plan.fits(params, grads, flags, self.state):
                plan = self._plans[number] = self._gather(group, flags)
            regather = False
            for bucket in plan.buckets:
                if bucket.params[0].is_cuda and is_current_stream_capturing():
                    self._record(group, bucket, grads)
                    continue
                step_tensor = bucket.step_tensor
                bucket.step += 1
                try:
                    self._launch(group, bucket, grads if bucket.picks is None else [grads[i] for i in bucket.picks])
                except BaseException:  # a refused update is not counted: the next step reads the count from the state
                    del self._plans[number]
                    raise
                if step_tensor is not None:
                    step_tensor.fill_(bucket.step)
                    bucket.step_version = step_tensor._version
                if bucket.fresh:
                    bucket.fresh = False
                    regather = regather or len(plan.buckets) > 1
            if regather:  # buckets apart only because some were fresh can now share a call
                del self._plans[number]
        return loss

    def _record(self, group: dict[str, Any], bucket: Bucket, grads: list[Tensor]) -> None:
        """Record a bucket's update in a graph. Counting, and the group's options of the day, happen before replays."""
        mine = Bucket(bucket.params, None, bucket.slots, bucket.step, bucket.fresh)
        device = bucket.params[0].device
        with stream(default_stream(device)):  # memory of the recording stream is overwritten by what the graph replays
            mine.live = empty(3, dtype=float64, device=device)
        kept = grads if bucket.picks is None else [grads[i] for i in bucket.picks]
        mine.step += 1
        self._launch(group, mine, kept)

        def renew() -> None:
            if self._counts:
                steps = {id(s): s for p in mine.params if (s := self.state[p]["step"]) is not None}
                mine.step = max(map(_count_of, steps.values()), default=0) + 1
            self._launch(group, mine, kept)
            mine.fresh = False
            if self._counts:
                for step in steps.values():
                    step.fill_(mine.step)

        before_replay(renew)

    def _gather(self, group: dict[str, Any], flags: Any) -> Plan:
        plan = Plan(group["params"], flags)
        slots = self._slots(group)
        used = [(key, make) for key, in_use, make in slots if in_use]
        parts: dict[Any, list[int]] = {}
        for i, p in enumerate(plan.live):
            state = self.state[p] if used or self._counts else {}
            count = _count_of(state.get("step", 0)) if self._counts else 0
            if self._counts and "step" not in state:
                state["step"] = None  # keeps PyTorch's order of keys; the bucket's tensor goes in below
            fresh = False
            for key, make in used:
                if state.get(key) is None:
                    state[key] = make(p)
                    fresh = True
            parts.setdefault((str(p.device), p.dtype, count, fresh), []).append(i)
        for (_, _, count, fresh), picks in parts.items():
            members = [plan.live[i] for i in picks]
            lists = [[self.state[p][key] for p in members] if in_use else [] for key, in_use, _ in slots]
            bucket = Bucket(members, None if len(parts) == 1 else picks, lists, count, fresh)
            if self._counts:
                bucket.step_tensor = tensor(float(count), dtype=float32)
                bucket.step_version = bucket.step_tensor._version
                for p in members:
                    self.state[p]["step"] = bucket.step_tensor
            plan.buckets.append(bucket)
        plan.state, plan.ticks = self.state, self.state._clock.ticks
        return plan


def _count_of(step: Any) -> int:
    """The step count as an integer, from a tensor or from the plain number of an old checkpoint."""
    if step is None:
        return 0
    return int(step.item() if isinstance(step, Tensor) else step)
