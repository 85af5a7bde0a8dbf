"""What an installed wheel must do with nothing beside it but NumPy: import, multiply, train, choose its instruction set.

Run from outside the source tree: python smoke.py
"""

import json
import subprocess
import sys


def train() -> None:
    import pydlx
    from pydlx import nn

    a = pydlx.arange(12, dtype=pydlx.float32).reshape(3, 4)
    assert (a @ a.T)[2, 2].item() == 366.0
    pydlx.manual_seed(0)
    x = pydlx.randn(256, 8)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = pydlx.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses
    image = pydlx.nn.functional.conv2d(pydlx.ones(1, 3, 8, 8), pydlx.ones(4, 3, 3, 3))
    assert image.shape == (1, 4, 6, 6) and image.min().item() == image.max().item() == 27.0
    n = 1024  # served by BLAS on AVX2, where the build has one
    d = pydlx.ones(n, n, dtype=pydlx.float64)
    assert ((d.T @ d) == n).all()
    print(f"{pydlx._C.build_info()['cpu_isa']}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")


def main() -> None:
    import os

    if sys.argv[1:] == ["child"]:
        train()
        return
    info = json.loads(
        subprocess.run(
            [sys.executable, "-m", "pydlx.cli", "info", "--json"], capture_output=True, text=True, check=True
        ).stdout
    )
    print({key: info[key] for key in ("version", "python", "cpu_isas", "blas", "threads")})
    for isa in info["cpu_isas"]:
        environment = {**os.environ, "PYDLX_CPU_ISA": isa}
        out = subprocess.run([sys.executable, __file__, "child"], env=environment, capture_output=True, text=True)
        if out.returncode or not out.stdout.startswith(isa):
            raise SystemExit(f"{isa}: {out.stdout}{out.stderr}")
        print(out.stdout, end="")


if __name__ == "__main__":
    main()
