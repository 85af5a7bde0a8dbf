"""Whole training steps: zero_grad, forward, loss, backward, optimiser; and the memory they take at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..inputs import Inputs
from ..memory import peak_growth
from ..rows import Row, Setup, Step

# A model, its loss as a function of the model, and its optimiser.
Problem = tuple[Any, Callable[[Any], Any], Any]


def _digits(T: Any, x: Inputs) -> Problem:
    """The network of ``pydlx demo digits`` at batch 64, without its dropout."""
    nn = T.nn

    def stage(inputs: int, outputs: int) -> list[Any]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    model = x.load(
        nn.Sequential(
            *(*stage(1, 32), *stage(32, 32), nn.MaxPool2d(2)),
            *(*stage(32, 64), *stage(64, 64), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(256, 10)),
        )
    )
    images, labels = x.uniform(64, 1, 8, 8), x.integers(10, 64)
    return (
        model,
        lambda m: nn.functional.cross_entropy(m(images), labels, label_smoothing=0.1),
        T.optim.AdamW(model.parameters(), lr=1e-4),
    )


def _resnet18(T: Any, x: Inputs) -> Problem:
    """He et al. 2015 (https://arxiv.org/abs/1512.03385), with the 3 x 3 stem used on 32 x 32 images; batch 32."""
    nn = T.nn

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU(inplace=True)
            self.shortcut = None
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, t: Any) -> Any:
            y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(t)))))
            return self.relu(y + (t if self.shortcut is None else self.shortcut(t)))

    layers, inputs = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)], 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    model = x.load(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)))
    images, labels = x.normal(32, 3, 32, 32), x.integers(10, 32)
    return (
        model,
        lambda m: nn.functional.cross_entropy(m(images), labels),
        T.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4),
    )


_LAYERS, _WIDTH, _HEADS, _TOKENS, _BATCH, _WORDS = 6, 384, 6, 256, 8, 65


def _gpt(T: Any, x: Inputs) -> Problem:
    """A character model: pre-norm transformer blocks with fused query, key and value, causal attention, GELU."""
    nn, F = T.nn, T.nn.functional

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
            self.qkv, self.out = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
            self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

        def forward(self, t: Any) -> Any:
            b, n, c = t.shape
            heads = (s.view(b, n, _HEADS, c // _HEADS).transpose(1, 2) for s in self.qkv(self.norm1(t)).split(c, dim=2))
            y = F.scaled_dot_product_attention(*heads, is_causal=True)
            t = t + self.out(y.transpose(1, 2).reshape(b, n, c))
            return t + self.down(F.gelu(self.up(self.norm2(t))))

    class Model(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(_WORDS, _WIDTH), nn.Embedding(_TOKENS, _WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(_LAYERS)))
            self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _WORDS, bias=False)

        def forward(self, t: Any) -> Any:
            return self.head(self.norm(self.blocks(self.words(t) + self.places(places))))

    model = x.load(Model())
    text = x.integers(_WORDS, _BATCH, _TOKENS + 1)
    places = T.arange(_TOKENS)
    given, wanted = text[:, :-1].contiguous(), text[:, 1:].reshape(-1)
    return (
        model,
        lambda m: F.cross_entropy(m(given).reshape(-1, _WORDS), wanted),
        T.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1),
    )


_LM_WORDS, _LM_WIDTH, _LM_STEPS, _LM_BATCH = 10000, 200, 35, 20


def _lstm(T: Any, x: Inputs) -> Problem:
    """The small word model of Zaremba et al. 2014 (https://arxiv.org/abs/1409.2329): two layers of 200, batch 20."""
    nn, F = T.nn, T.nn.functional

    class Model(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(_LM_WORDS, _LM_WIDTH)
            self.lstm = nn.LSTM(_LM_WIDTH, _LM_WIDTH, 2)
            self.head = nn.Linear(_LM_WIDTH, _LM_WORDS)

        def forward(self, t: Any) -> Any:
            return self.head(self.lstm(self.words(t))[0])

    model = x.load(Model())
    text = x.integers(_LM_WORDS, _LM_STEPS + 1, _LM_BATCH)
    given, wanted = text[:-1].contiguous(), text[1:].reshape(-1)
    return (
        model,
        lambda m: F.cross_entropy(m(given).reshape(-1, _LM_WORDS), wanted),
        T.optim.SGD(model.parameters(), lr=1e-4),
    )


def _stepper(problem: Callable[[Any, Inputs], Problem]) -> Setup:
    def setup(T: Any, x: Inputs) -> Step:
        model, loss_of, optimizer = problem(T, x)
        parameters, clipped = list(model.parameters()), problem is _lstm
        model = getattr(T, "bench_model", lambda given: given)(model)  # peers that compile

        def step() -> Any:
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            if clipped:
                T.nn.utils.clip_grad_norm_(parameters, 0.25)
            optimizer.step()
            return loss.detach()

        return step

    return setup


def _peak_memory(problem: Callable[[Any, Inputs], Problem]) -> Setup:
    """MB by which five steps, with model and data, raise the resident memory of a new process at most."""

    def setup(T: Any, x: Inputs) -> Step:
        def run() -> None:
            step = _stepper(problem)(T, x)
            for _ in range(5):
                step()

        return lambda: peak_growth(run) / 1e6

    return setup


def _resnet_flops() -> float:
    total = 3 * 64 * 9 * 32 * 32
    inputs, side = 64, 32
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        side //= stride
        total += (inputs + 3 * outputs) * outputs * 9 * side * side
        total += inputs * outputs * side * side if inputs != outputs else 0
        inputs = outputs
    return 3 * 2.0 * 32 * (total + 5120)


def rows() -> list[Row]:
    digits = 3 * 2.0 * 64 * (9 * (32 + 32 * 32) * 64 + 9 * (32 * 64 + 64 * 64) * 16 + 2560)
    gpt = 3 * 2.0 * _BATCH * _TOKENS * (12 * _LAYERS * _WIDTH**2 + _WIDTH * _WORDS)
    gpt += 3.5 * 4.0 * _BATCH * _LAYERS * _WIDTH * _TOKENS * (_TOKENS + 1) / 2
    lstm = 3 * 2.0 * _LM_BATCH * _LM_STEPS * (2 * 8 * _LM_WIDTH**2 + _LM_WIDTH * _LM_WORDS)
    problems = (
        ("digits CNN, batch 64", _digits, digits),
        ("ResNet-18 32x32, batch 32", _resnet18, _resnet_flops()),
        ("GPT 6x384, 256 tokens, batch 8", _gpt, gpt),
        ("LSTM language model 2x200, batch 20", _lstm, lstm),
    )
    return [
        *(Row(name, _stepper(problem), flops, resident=0.0) for name, problem, flops in problems),
        *(Row(f"peak memory: {name}", _peak_memory(problem), unit="MB", fresh=True) for name, problem, _ in problems),
    ]
