"""Training steps of small models, as users write them: what ``test_cuda_launches.py`` counts the launches of.

A step is forward, loss, backward, clipping, update and clearing the gradients. Sizes are small, and large enough for the
kernels that large models take.
"""

from __future__ import annotations

import math
import sys

import pydlx as torch
from pydlx import nn
from pydlx.nn import functional as F

DEVICE = "cuda"


def train(model, loss_of, optimizer, *, autocast=None, clip=1.0, scaler=None, parts=1):
    """A function that makes one step; ``parts`` batches are accumulated."""

    def step():
        for _ in range(parts):
            with torch.autocast("cuda", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                loss = loss_of()
            if parts > 1:
                loss = loss / parts
            (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad()

    return step


def mlp():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    model.to(DEVICE)
    x, y = torch.randn(64, 1, 28, 28, device=DEVICE), torch.randint(0, 10, (64,), device=DEVICE)
    return train(model, lambda: F.cross_entropy(model(x), y), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


class Block(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.short = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.short = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.short(x))


def resnet(layout=None, autocast=torch.bfloat16):
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32, 32, 1),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).to(DEVICE)
    x, y = torch.randn(4, 3, 12, 12, device=DEVICE), torch.randint(0, 10, (4,), device=DEVICE)
    if layout is not None:
        model, x = model.to(memory_format=layout), x.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    return train(model, lambda: F.cross_entropy(model(x), y), optimizer, autocast=autocast, clip=None)


def cnn():
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(64 * 9, 10),
    ).to(DEVICE)
    x, y = torch.randn(4, 1, 12, 12, device=DEVICE), torch.randint(0, 10, (4,), device=DEVICE)
    return train(model, lambda: F.cross_entropy(model(x), y), torch.optim.Adam(model.parameters()), clip=None)


class WordModel(nn.Module):
    def __init__(self, words=48, width=32, layers=2):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.words = nn.Embedding(words, width)
        self.rnn = nn.LSTM(width, width, layers, dropout=0.2)
        self.head = nn.Linear(width, words)

    def forward(self, x, state):
        y, state = self.rnn(self.drop(self.words(x)), state)
        return self.head(self.drop(y)), state


def lstm(autocast=None):
    model = WordModel().to(DEVICE)
    x, y = torch.randint(0, 48, (9, 8), device=DEVICE), torch.randint(0, 48, (9, 8), device=DEVICE)
    state = [torch.zeros(2, 8, 32, device=DEVICE), torch.zeros(2, 8, 32, device=DEVICE)]

    def loss():
        out, new = model(x, tuple(s.detach() for s in state))
        state[:] = new
        return F.cross_entropy(out.view(-1, 48), y.view(-1))

    return train(model, loss, torch.optim.SGD(model.parameters(), lr=1.0), clip=0.25, autocast=autocast)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(c, dim=2)
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.drop(self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c)))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.c_fc, self.c_proj, self.drop = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Dropout(0.1)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.drop(self.c_proj(F.gelu(self.c_fc(self.ln_2(x)))))


class GPT(nn.Module):
    """As nanoGPT writes it."""

    def __init__(self, words=96, length=64, width=64, heads=2, layers=2):
        super().__init__()
        self.wte, self.wpe, self.drop = nn.Embedding(words, width), nn.Embedding(length, width), nn.Dropout(0.1)
        self.h = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.wte.weight = self.head.weight

    def forward(self, x, y):
        at = torch.arange(0, x.size(1), dtype=torch.long, device=x.device)
        z = self.drop(self.wte(x) + self.wpe(at))
        for layer in self.h:
            z = layer(z)
        logits = self.head(self.ln_f(z))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1), ignore_index=-1)


def gpt(autocast=torch.bfloat16, scaler=False, parts=1):
    model = GPT().to(DEVICE)
    x, y = torch.randint(0, 96, (2, 64), device=DEVICE), torch.randint(0, 96, (2, 64), device=DEVICE)
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    scaler = torch.amp.GradScaler("cuda") if scaler else None
    return train(model, lambda: model(x, y), optimizer, autocast=autocast, scaler=scaler, parts=parts)


class Encoder(nn.Module):
    def __init__(self, words=96, width=64):
        super().__init__()
        self.words = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(
            width, 2, 256, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(64))

    def forward(self, x):
        return self.head(self.encoder(self.words(x) * math.sqrt(64), mask=self.mask, is_causal=True))


def transformer(autocast=torch.bfloat16):
    model = Encoder().to(DEVICE)
    x, y = torch.randint(0, 96, (2, 64), device=DEVICE), torch.randint(0, 96, (2, 64), device=DEVICE)
    return train(
        model,
        lambda: F.cross_entropy(model(x).flatten(0, 1), y.flatten()),
        torch.optim.AdamW(model.parameters()),
        autocast=autocast,
    )


class ViT(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 65, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.encoder(x)[:, 0])


def vit(autocast=torch.bfloat16):
    model = ViT().to(DEVICE)
    x, y = torch.randn(2, 3, 32, 32, device=DEVICE), torch.randint(0, 10, (2,), device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    return train(model, lambda: F.cross_entropy(model(x), y, label_smoothing=0.1), optimizer, autocast=autocast)


STEPS = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "resnet channels_last": lambda: resnet(torch.channels_last),
    "resnet float32": lambda: resnet(autocast=None),
    "lstm": lstm,
    "lstm bfloat16": lambda: lstm(torch.bfloat16),
    "gpt": gpt,
    "gpt float32": lambda: gpt(None),
    "gpt float16 scaled": lambda: gpt(torch.float16, scaler=True),
    "gpt accumulated": lambda: gpt(parts=2),
    "transformer": transformer,
    "vit": vit,
}


def main(trace, names):
    """Prints what a steady step of each model launches, as ``PYDLX_CUDA_TRACE=trace`` of this process tells it."""
    for name in names or STEPS:
        torch.manual_seed(0)
        step = STEPS[name]()
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        with open(trace) as lines:
            lines.seek(0, 2)
            step()
            print(f"== {name}", lines.read(), sep="\n", end="", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
