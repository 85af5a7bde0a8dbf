"""What surrounds a network: hooks, custom gradients, schedules, loaders, checkpoints, averages."""

import contextlib
import copy
import math
import os
import tempfile

import numpy as np
import pytest
from ports import Programs, assert_same

PROGRAMS = Programs()


@PROGRAMS
def custom_function(torch, draw):
    class Exp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, i):
            r = i.exp()
            ctx.save_for_backward(r)
            return r

        @staticmethod
        def backward(ctx, g):
            (r,) = ctx.saved_tensors
            return g * r

    class LinearFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, weight, bias=None):
            ctx.save_for_backward(input, weight, bias)
            o = input.mm(weight.t())
            if bias is not None:
                o += bias.unsqueeze(0).expand_as(o)
            return o

        @staticmethod
        def backward(ctx, go):
            i, w, b = ctx.saved_tensors
            gi = gw = gb = None
            if ctx.needs_input_grad[0]:
                gi = go.mm(w)
            if ctx.needs_input_grad[1]:
                gw = go.t().mm(i)
            if b is not None and ctx.needs_input_grad[2]:
                gb = go.sum(0)
            return gi, gw, gb

    x = draw(3, 4, dtype=np.float64, grad=True)
    w = draw(2, 4, dtype=np.float64, grad=True)
    b = draw(2, dtype=np.float64, grad=True)
    y = Exp.apply(x)
    LinearFunction.apply(y, w, b).pow(2).sum().backward()
    ok = torch.autograd.gradcheck(LinearFunction.apply, (x, w, b), eps=1e-6, atol=1e-4)
    return [y, x.grad, w.grad, b.grad, ok]


@PROGRAMS
def hooks(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    acts = {}
    grads = []

    def get(name):
        def hook(model, input, output):
            acts[name] = output.detach()

        return hook

    hs = [m[i].register_forward_hook(get(str(i))) for i in range(3)]
    h2 = m[2].register_full_backward_hook(lambda mod, gi, go: grads.append(go[0]))
    x = draw(2, 3, grad=True)
    x.register_hook(lambda g: g * 2)
    y = m(x)
    z = y * 2
    z.retain_grad()
    z.sum().backward()
    [h.remove() for h in hs]
    h2.remove()
    return [acts, grads, x.grad, z.grad]


@PROGRAMS
def param_groups_schedulers(torch, draw):
    nn = torch.nn
    optim = torch.optim
    m = draw.fill(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    opt = optim.SGD([{"params": m[0].parameters()}, {"params": m[1].parameters(), "lr": 1e-3}], lr=1e-2, momentum=0.9)
    out = []
    for mk in [
        lambda o: optim.lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: optim.lr_scheduler.ExponentialLR(o, 0.9),
        lambda o: optim.lr_scheduler.LambdaLR(o, lambda e: 0.95**e),
        lambda o: optim.lr_scheduler.MultiStepLR(o, [1, 3]),
        lambda o: optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=6),
        lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    ]:
        sc = mk(opt)
        for _ in range(5):
            m(draw(2, 3)).sum().backward()
            opt.step()
            sc.step()
            out.append([g["lr"] for g in opt.param_groups])
    pl = optim.lr_scheduler.ReduceLROnPlateau(opt, "min", patience=1, factor=0.1)
    for v in [1.0, 1.0, 1.0, 1.0, 1.0]:
        pl.step(v)
        out.append(opt.param_groups[0]["lr"])
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 5.0})
    return [*out, len(opt.param_groups), str(opt)]


@PROGRAMS
def warmup_sequential(torch, draw):
    nn = torch.nn
    optim = torch.optim
    p = nn.Parameter(torch.ones(1))
    o = optim.AdamW([p], 0.1)
    a = optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3)
    b = optim.lr_scheduler.CosineAnnealingLR(o, 5)
    sc = optim.lr_scheduler.SequentialLR(o, [a, b], milestones=[3])
    out = []
    for _ in range(7):
        p.grad = torch.ones(1)
        o.step()
        sc.step()
        out.append(sc.get_last_lr()[0])
    return out


@PROGRAMS
def loader_workers(torch, draw):
    data = torch.utils.data

    class Sq(data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, i):
            return {"x": torch.tensor([i * 1.0, i * 2.0]), "y": i, "n": str(i)}

    out = []
    for b in data.DataLoader(Sq(), batch_size=4, shuffle=False, num_workers=2):
        out += [b["x"], b["y"], b["n"]]
    dl = data.DataLoader(Sq(), 3, sampler=data.SequentialSampler(Sq()), collate_fn=lambda l: len(l), drop_last=True)
    a, b = data.random_split(range(10), [7, 3], generator=torch.Generator().manual_seed(1))
    return [*out, list(dl), len(a), len(b), len(dl), sorted(list(a) + list(b))]


@PROGRAMS
def checkpoint_roundtrip(torch, draw):
    nn = torch.nn
    optim = torch.optim
    m = draw.fill(nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    o = optim.Adam(m.parameters())
    x = draw(5, 3)
    for _ in range(2):
        o.zero_grad()
        m(x).pow(2).sum().backward()
        o.step()
    f = os.path.join(tempfile.mkdtemp(), "c.pt")
    torch.save({"epoch": 3, "model_state_dict": m.state_dict(), "optimizer_state_dict": o.state_dict(), "loss": 0.5}, f)
    c = torch.load(f, weights_only=True)
    m2 = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2))
    o2 = optim.Adam(m2.parameters())
    r = m2.load_state_dict(c["model_state_dict"])
    o2.load_state_dict(c["optimizer_state_dict"])
    for mm, oo in ((m, o), (m2, o2)):
        oo.zero_grad()
        mm(x).pow(2).sum().backward()
        oo.step()
    return [
        c["epoch"],
        c["loss"],
        dict(m.state_dict()),
        dict(m2.state_dict()),
        str(r),
        list(o.state_dict()["state"][0]),
    ]


@PROGRAMS
def modulelist_buffer(torch, draw):
    nn = torch.nn

    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
            self.register_buffer("running", torch.zeros(4))
            self.alpha = nn.Parameter(torch.tensor(0.5))
            self.d = nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})
            self.pl = nn.ParameterList([nn.Parameter(torch.ones(2)) for _ in range(2)])

        def forward(self, x, act):
            for i, l in enumerate(self.layers):
                x = self.d[act](l(x)) + self.layers[i // 2](x)
            self.running = 0.9 * self.running + 0.1 * x.mean(0).detach()
            return x * self.alpha

    m = draw.fill(M())
    m.layers.append(draw.fill(nn.Linear(4, 4)))
    m.layers.extend([nn.Identity()])
    o = m(draw(3, 4), "relu")
    o.sum().backward()
    return [
        o,
        m.running,
        list(m.state_dict().keys()),
        [n for n, _ in m.named_modules()],
        str(m),
        m.layers[-1],
        len(m.layers[1:3]),
    ]


@PROGRAMS
def init_apply(torch, draw):
    nn = torch.nn

    def w(m):
        if isinstance(m, nn.Linear):
            nn.init.constant_(m.weight, 0.1)
            nn.init.zeros_(m.bias)
        classname = m.__class__.__name__
        if classname.find("BatchNorm") != -1:
            m.weight.data.fill_(2.0)
            m.bias.data.zero_()

    m = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    m.apply(w)
    t = torch.empty(300, 500)
    nn.init.xavier_uniform_(t, gain=nn.init.calculate_gain("relu"))
    s_ = t.abs().max() <= math.sqrt(2) * math.sqrt(6 / 800)
    nn.init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu")
    q = abs(t.std().item() - math.sqrt(2 / 300)) < 1e-3
    e = nn.init.eye_(torch.empty(3, 3))
    return [m.state_dict(), s_, q, e]


@PROGRAMS
def ema_swa(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.Linear(3, 2))
    ema = copy.deepcopy(m)
    for p in ema.parameters():
        p.requires_grad_(False)
    for pe, pm in zip(ema.parameters(), m.parameters()):
        pe.mul_(0.9).add_(pm.data + 1, alpha=0.1)
    sw = torch.optim.swa_utils.AveragedModel(m)
    sw.update_parameters(m)
    m.weight.data.add_(1)
    sw.update_parameters(m)
    return [ema.weight, sw.module.weight, sw.n_averaged]


@PROGRAMS
def checkpointing(torch, draw):
    nn = torch.nn
    cp = torch.utils.checkpoint
    m = draw.fill(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    x = draw(2, 3, grad=True)
    o = cp.checkpoint(m, x, use_reentrant=False)
    o.sum().backward()
    g1 = x.grad.clone()
    x.grad = None
    cp.checkpoint_sequential(m, 2, x, use_reentrant=False).sum().backward()
    return [o, g1, x.grad, m[0].weight.grad]


@PROGRAMS
def weight_spectral_norm(torch, draw):
    nn = torch.nn
    m = nn.utils.parametrizations.weight_norm(draw.fill(nn.Linear(3, 2)))
    o = m(draw(2, 3))
    v = nn.utils.parameters_to_vector(draw.fill(nn.Linear(2, 2)).parameters())
    p = nn.utils.rnn.pad_sequence([torch.ones(2), torch.ones(3)], batch_first=True)
    return [o, v, p, sorted(m.state_dict())]


@PROGRAMS
def lazy_modules(torch, draw):
    nn = torch.nn
    m = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    o = m(draw(2, 3, 6, 6))
    return [o.shape, m[3].in_features, type(m[3]).__name__, m[0].weight.shape]


@PROGRAMS
def inference_compile(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.Linear(3, 2)).eval()
    with torch.inference_mode():
        o = m(draw(2, 3))
    with contextlib.suppress(Exception):
        torch.compile(m)

    @torch.no_grad()
    def f(x):
        return m(x)

    return [o, f(draw(2, 3)).requires_grad, m.training]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program(program):
    assert_same(program, program.__name__)
