"""L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .. import Tensor, cat
from ..autograd import enable_grad, no_grad
from ._checks import as_count, check_lr, check_nonnegative
from .optimizer import Optimizer, ParamsT

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    r"""Limited-memory BFGS: a quasi-Newton method for small, smooth, noise-free problems.

    Every step runs up to ``max_iter`` iterations and calls the closure several times. The direction comes from the last
    ``history_size`` pairs :math:`(s, y)` of changes in parameters and gradient by the two-loop recursion.

    Args:
        params: one group of parameters. lr: step length, the line search's first try. max_iter: iterations per step.
        max_eval: closure calls per step, ``max_iter * 5 // 4`` by default. tolerance_grad: stop when the largest
            gradient falls below. tolerance_change: stop when step or loss change fall below. history_size: pairs kept.
        line_search_fn: None for the fixed length ``lr``, or ``"strong_wolfe"``.

    Raises:
        ValueError: several groups, or an option outside its range. TypeError: a step without a closure.

    Source: Nocedal and Wright, Numerical optimization, 2006, algorithms 7.4, 3.5 and 3.6.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": as_count("LBFGS", "max_iter", max_iter) * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(f"[LBFGS] params: expected one group, got {len(self.param_groups)}")
        self._params: list[Tensor] = self.param_groups[0]["params"]

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("LBFGS", group["lr"])
        check_nonnegative("LBFGS", "tolerance_grad", group["tolerance_grad"])
        check_nonnegative("LBFGS", "tolerance_change", group["tolerance_change"])
        for name in ("max_iter", "max_eval", "history_size"):
            as_count("LBFGS", name, group[name])
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise ValueError(
                f"[LBFGS] line_search_fn: expected None or 'strong_wolfe', got {group['line_search_fn']!r}"
            )

    def _flat_grad(self) -> Tensor:
        return cat([(p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1)) for p in self._params])

    def _move(self, start: list[Tensor], direction: Tensor, length: float) -> None:
        offset = 0
        for p, origin in zip(self._params, start, strict=True):
            count = p.numel()
            p.copy_(origin.add(direction[offset : offset + count].view_as(p), alpha=length))
            offset += count

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run up to ``max_iter`` iterations.

        Args:
            closure: clears the gradients, computes the loss, calls backward and returns the loss. Required.

        Returns:
            The loss before the step.
        """
        if closure is None:
            raise TypeError("[LBFGS.step] closure: expected a callable that re-evaluates the loss, got None")
        with no_grad():
            return self._run(closure)

    def _run(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        lr = float(group["lr"])
        state = self.state[self._params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        evaluations = 0

        def evaluate() -> tuple[Any, float, Tensor]:
            nonlocal evaluations
            with enable_grad():
                loss = closure()
            evaluations += 1
            state["func_evals"] += 1
            return loss, float(loss), self._flat_grad()

        first_loss, loss, grad = evaluate()
        if float(grad.abs().max()) <= group["tolerance_grad"]:
            return first_loss
        history: list[tuple[Tensor, Tensor, float]] = list(
            zip(state.get("old_stps", []), state.get("old_dirs", []), state.get("ro", []), strict=True)
        )
        direction, length = state.get("d"), state.get("t")
        previous_grad, scale = state.get("prev_flat_grad"), state.get("H_diag", 1)

        for iteration in range(group["max_iter"]):
            state["n_iter"] += 1
            if direction is None or previous_grad is None:
                direction = grad.neg()
            else:
                y, s = grad.sub(previous_grad), direction.mul(length)
                curvature = float(y.dot(s))
                if curvature > 1e-10:  # a pair without positive curvature would spoil the positive definite estimate
                    history = [*history[-(group["history_size"] - 1) :], (s, y, 1.0 / curvature)]
                    if group["history_size"] == 1:
                        history = history[-1:]
                    scale = curvature / float(y.dot(y))
                direction = _two_loop(grad, history, scale)
            previous_grad, previous_loss = grad, loss
            # Before any curvature is known the gradient's scale is arbitrary: the first step is at most lr long.
            length = min(1.0, 1.0 / float(grad.abs().sum())) * lr if state["n_iter"] == 1 else lr
            slope = float(grad.dot(direction))
            if slope > -group["tolerance_change"]:
                break
            start = [p.clone() for p in self._params]

            def along(step: float, start: list[Tensor] = start, d: Tensor = direction) -> tuple[float, Tensor, float]:
                self._move(start, d, step)
                _, value, gradient = evaluate()
                return value, gradient, float(gradient.dot(d))

            if group["line_search_fn"] == "strong_wolfe":
                length, loss, grad = _strong_wolfe(along, length, loss, grad, slope, group["tolerance_change"])
                self._move(start, direction, length)
            elif iteration + 1 < group["max_iter"]:
                loss, grad, _ = along(length)
            else:
                self._move(start, direction, length)
            if (
                evaluations >= group["max_eval"]
                or float(grad.abs().max()) <= group["tolerance_grad"]
                or float(direction.abs().max()) * length <= group["tolerance_change"]
                or abs(loss - previous_loss) < group["tolerance_change"]
                or not math.isfinite(loss)
            ):
                break
        state.update(d=direction, t=length, H_diag=scale, prev_flat_grad=previous_grad, prev_loss=previous_loss)
        state.update(
            old_stps=[s for s, _, _ in history], old_dirs=[y for _, y, _ in history], ro=[r for _, _, r in history]
        )
        return first_loss


def _two_loop(grad: Tensor, history: list[tuple[Tensor, Tensor, float]], scale: float) -> Tensor:
    """Minus the inverse Hessian estimate times the gradient (algorithm 7.4)."""
    q = grad.neg()
    weights = []
    for s, y, rho in reversed(history):
        weight = float(s.dot(q)) * rho
        weights.append(weight)
        q.add_(y, alpha=-weight)
    q.mul_(scale)
    for (s, y, rho), weight in zip(history, reversed(weights), strict=True):
        q.add_(s, alpha=weight - float(y.dot(q)) * rho)
    return q


def _cubic_minimum(x1: float, f1: float, g1: float, x2: float, f2: float, g2: float) -> float:
    """Where the cubic through two points with slopes is least, kept inside the interval (equation 3.59)."""
    low, high = min(x1, x2), max(x1, x2)
    d1 = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
    square = d1 * d1 - g1 * g2
    if not square >= 0:
        return (low + high) / 2
    d2 = math.copysign(math.sqrt(square), x2 - x1)
    denominator = g2 - g1 + 2 * d2
    if denominator == 0:
        return (low + high) / 2
    return min(max(x2 - (x2 - x1) * (g2 + d2 - d1) / denominator, low), high)


def _strong_wolfe(
    along: Callable[[float], tuple[float, Tensor, float]],
    length: float,
    loss: float,
    grad: Tensor,
    slope: float,
    tolerance: float,
    c1: float = 1e-4,
    c2: float = 0.9,
    max_tries: int = 25,
) -> tuple[float, float, Tensor]:
    """A step length with sufficient decrease and a flat enough slope (algorithms 3.5 and 3.6).

    Returns:
        The length, and the loss and gradient there.
    """
    before: tuple[float, float, Tensor, float] = (0.0, loss, grad, slope)
    low = high = before
    for attempt in range(max_tries):
        value, gradient, rise = along(length)
        now = (length, value, gradient, rise)
        if not math.isfinite(value):  # overshot into infinity or NaN: come back towards the last good point
            length = (before[0] + length) / 2
            continue
        if value > loss + c1 * length * slope or (attempt > 0 and value >= before[1]):
            low, high = before, now
            break
        if abs(rise) <= -c2 * slope:
            return length, value, gradient
        if rise >= 0:
            low, high = now, before
            break
        longest = length * 10
        guess = _cubic_minimum(before[0], before[1], before[3], *now[:2], now[3])
        before, length = (
            now,
            min(max(guess, length + 0.01 * (length - before[0])), longest) if guess > length else longest,
        )
    else:
        return before[0], before[1], before[2]
    for _ in range(max_tries):
        width = abs(high[0] - low[0])
        if width * abs(slope) < tolerance:
            break
        trial = _cubic_minimum(low[0], low[1], low[3], high[0], high[1], high[3])
        # A trial next to an end hardly shrinks the bracket, so it is pushed a tenth of the width inside.
        trial = min(max(trial, min(low[0], high[0]) + 0.1 * width), max(low[0], high[0]) - 0.1 * width)
        value, gradient, rise = along(trial)
        now = (trial, value, gradient, rise)
        if value > loss + c1 * trial * slope or value >= low[1] or not math.isfinite(value):
            high = now
            continue
        if abs(rise) <= -c2 * slope:
            return trial, value, gradient
        if rise * (high[0] - low[0]) >= 0:
            high = low
        low = now
    return low[0], low[1], low[2]
