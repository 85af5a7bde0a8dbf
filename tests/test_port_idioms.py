"""Expressions as they occur in PyTorch programs: value, dtype, shape and printing compared with both libraries.

Each line is evaluated with ``x`` a (4, 5, 6) float tensor, ``f`` a (2, 2) one, ``n`` an integer (2, 2) one, ``v`` and ``w``
vectors of 3, ``img`` a (2, 4, 6, 6) batch, and ``draw`` for more.
"""

import builtins

import numpy as np
import pytest
import torch
from ports import Draw, assert_same

import pydlx

INDEXING = """
x[0]
x[..., -1]
x[1:3, ::2]
x[:, None, 2]
x[x > 0]
x[[0, 2]]
x[torch.tensor([1, 3]), :, torch.tensor([0, 5])]
x[:, [1, 2], 3:5]
x[-1, -1, -1].item()
x[torch.arange(4), torch.tensor([0, 1, 2, 3])]
torch.where(x > 0, x, torch.zeros_like(x))
x.where(x > 0, torch.tensor(0.0))
(x > 0).nonzero()[:3]
torch.nonzero(x > 1, as_tuple=True)
x.gather(2, x.argsort(2))
x.index_select(1, torch.tensor([0, 4]))
torch.take(x, torch.tensor([0, 10]))
x.masked_select(x > 1)
x.masked_fill(x < 0, float("-inf"))
torch.zeros(3, 5).scatter_(1, torch.tensor([[0], [2], [4]]), 1.0)
torch.zeros(3, 5).index_add_(0, torch.tensor([0, 0]), torch.ones(2, 5))
F.one_hot(torch.tensor([0, 2, 1]))
x.unfold(1, 2, 2).shape
x.flip(0).roll(1, 0)
x.tril()
torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
torch.unravel_index(torch.tensor([7, 3]), (2, 4))
torch.stack([x, x]).shape
[row.sum() for row in x]
2 in n
max(v)
sorted(v.tolist())
sum(v)
"""

BASICS = """
n.dtype
torch.arange(5).dtype
torch.arange(0, 1, 0.25)
torch.linspace(0, 1, 5)
torch.eye(3)
n / 2
n // 2
n % 2
-7 // torch.tensor(2)
torch.tensor(-7) % 3
n**2
2**n
1 - n
1 / f
f.mean()
f.std()
f.var(unbiased=False)
n.sum(0)
f.max(1)
torch.max(f, dim=0).indices
f.argmax()
n.size()
n.size(0)
len(n)
n.view(-1)
n.unsqueeze(0).squeeze().shape
n.float().mm(f)
f @ f
torch.dot(f[0], f[1])
f.trace()
torch.cat([n, n], dim=1)
n.repeat(2, 1)
n.expand(2, 2, 2).shape
n.eq(2).any()
(n > 1).all()
n.clamp(2, 3)
torch.allclose(f, f + 1e-9)
torch.equal(n, n)
n.t().is_contiguous()
n.type()
n.type("torch.FloatTensor")
f.type(torch.LongTensor)
isinstance(f, torch.FloatTensor)
str(n.device)
f.cumsum(0)
torch.chunk(n, 2)
torch.split(n, 1)
n.unbind(0)
torch.sort(f, descending=True)
torch.unique(torch.tensor([1, 2, 2]))
torch.bincount(torch.tensor([0, 1, 1]))
torch.histc(f, 4)
f.topk(1)
f.kthvalue(1)
f.median()
torch.quantile(f, 0.5)
torch.nanquantile(torch.tensor([1.0, float("nan"), 3.0]), 0.5)
torch.einsum("ij,jk->ik", f, f)
torch.outer(v, w)
torch.cdist(draw(3, 2), draw(4, 2))
torch.cov(draw(2, 5))
torch.corrcoef(draw(2, 5))
torch.cross(v, w, dim=0)
torch.dist(v, w)
torch.cosine_similarity(draw(3, 2), draw(3, 2))
torch.isin(torch.tensor([1, 2, 3]), torch.tensor([2]))
torch.trapezoid(torch.tensor([1.0, 2.0, 3.0]))
torch.vander(torch.tensor([1, 2, 3]))
torch.gcd(torch.tensor([12, -8]), torch.tensor([18, 12]))
torch.lcm(torch.tensor([12, -8]), torch.tensor([18, 12]))
torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)) > 1
torch.result_type(torch.tensor([1]), 1.0)
torch.can_cast(torch.float, torch.int)
torch.logsumexp(f, 1)
torch.addmm(draw(2, 3), draw(2, 4), draw(4, 3))
torch.lerp(v, w, 0.3)
torch.searchsorted(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.5]))
torch.flatten(draw(2, 3, 4), 1).shape
torch.movedim(draw(2, 3, 4), 0, -1).shape
torch.count_nonzero(torch.tensor([0, 1, 2]))
torch.diff(torch.tensor([1, 4, 9]))
torch.cummax(torch.tensor([1.0, 3.0, 2.0]), 0)
torch.broadcast_tensors(draw(2, 1), draw(1, 3))
torch.repeat_interleave(torch.tensor([1, 2]), 2)
torch.kron(f, f)
torch.block_diag(f, f)
torch.cartesian_prod(torch.tensor([1, 2]), torch.tensor([3]))
torch.combinations(torch.tensor([1, 2, 3]))
torch.rot90(f)
torch.nan_to_num(torch.tensor([float("nan")]))
torch.special.expit(v)
torch.finfo(torch.float32).eps
torch.iinfo(torch.int64).max
torch.full((2, 2), 7)
torch.zeros_like(v, dtype=torch.long)
torch.Tensor([1, 2, 3])
torch.Tensor(2, 3).shape
torch.FloatTensor([1, 2])
torch.LongTensor([[1], [2]])
torch.tensor(np.float64(3.5))
torch.tensor([np.float32(1), np.float32(2)])
torch.tensor([v[0], v[1]])
torch.from_numpy(np.ones((2, 3), np.float32)) * np.float32(2)
np.asarray(f)
np.sqrt(n)
np.float32(2) * f
f + np.ones((2, 2), np.float32)
f == np.ones((2, 2), np.float32)
np.exp(f)
torch.cuda.is_available()
torch.backends.mps.is_available()
torch.device("cuda" if torch.cuda.is_available() else "cpu").type
"""

FUNCTIONS = """
F.pad(img, (1, 1, 2, 0))
F.pad(img, (1, 1, 1, 1), mode="reflect")
F.pad(img, (2, 2), value=3.0)
F.pad(img, (-1, 2, 0, -2))
F.interpolate(img, scale_factor=2, mode="nearest")
F.interpolate(img, size=(3, 9), mode="bilinear", align_corners=False)
F.interpolate(img, scale_factor=0.5, mode="bicubic", align_corners=True)
F.unfold(img, 3, padding=1)
F.fold(F.unfold(img, 2, stride=2), (6, 6), 2, stride=2)
F.pixel_unshuffle(F.pixel_shuffle(img, 2), 2)
F.channel_shuffle(img, 2)
F.avg_pool2d(img, 2)
F.max_pool2d(img, 3, stride=2, padding=1)
F.adaptive_avg_pool2d(img, 1)
F.adaptive_max_pool2d(img, (2, 3))
F.normalize(img, dim=1)
F.layer_norm(img, (6, 6))
F.group_norm(img, 2)
F.instance_norm(img)
F.elu(img)
F.gelu(img)
F.gelu(img, approximate="tanh")
F.softplus(img)
F.hardswish(img)
F.glu(img, 1)
F.prelu(img, torch.tensor([0.25]))
F.softmin(img, 1)
F.grid_sample(img, F.affine_grid(torch.eye(2, 3).repeat(2, 1, 1) * 0.9, (2, 4, 5, 5), align_corners=False), align_corners=False)
F.mse_loss(v, w)
F.smooth_l1_loss(v, w, reduction="sum")
F.cross_entropy(x[0], torch.tensor([0, 1, 2, 3, 5]), weight=torch.arange(1.0, 7.0), label_smoothing=0.1)
F.cross_entropy(x[0], F.softmax(x[1], 1))
F.nll_loss(F.log_softmax(x[0], 1), torch.tensor([0, 1, 2, 3, 5]), reduction="none")
F.linear_cross_entropy(x[0], draw(7, 6), torch.tensor([0, 1, -100, 3, 5]))
F.binary_cross_entropy_with_logits(v, torch.sigmoid(w), pos_weight=torch.tensor([1.0, 2.0, 3.0]))
F.kl_div(F.log_softmax(x[0], 1), F.softmax(x[1], 1), reduction="batchmean")
F.cosine_embedding_loss(x[0], x[1], torch.tensor([1, -1, 1, -1, 1]))
F.triplet_margin_loss(x[0], x[1], x[2])
F.gaussian_nll_loss(v, w, torch.ones(3))
F.ctc_loss(F.log_softmax(draw(10, 2, 5), 2), torch.tensor([[1, 2, 3], [2, 2, 4]]), torch.tensor([10, 9]), torch.tensor([3, 2]))
"""

PRINTED = """
torch.tensor([1.0, 2.5, 3.14159])
torch.tensor([[1, 2], [3, 4]])
torch.tensor(3)
torch.tensor([1e10, 1.0])
torch.tensor([1e-5, 1.0])
torch.ones(2, requires_grad=True)
torch.ones(2, requires_grad=True) * 2
torch.arange(2000)
torch.zeros(2, 0)
torch.tensor([True, False])
torch.tensor([float("nan"), float("inf")])
torch.ones(2, dtype=torch.float16)
torch.Size([1, 2])
nn.Parameter(torch.ones(2))
torch.float32
torch.device("cpu")
torch.zeros(2, 2, 2)
nn.LazyLinear(3)
nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.MaxPool2d(2), nn.AvgPool1d(2), nn.MaxUnpool2d(2), nn.AdaptiveAvgPool2d((1, None)))
nn.LPPool2d(2, 3), nn.MultiheadAttention(4, 2), nn.TransformerDecoderLayer(4, 2, 8)
torch.optim.SGD([{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(torch.ones(2))], "lr": 1.0}], lr=0.1)
"""

# The built-in exception a handler written for PyTorch catches.
RAISES = """
RuntimeError: draw(2, 3) @ draw(2, 3)
RuntimeError: nn.Linear(3, 2)(draw(2, 4))
RuntimeError: draw(2, 3).view(7)
RuntimeError: torch.cat([draw(2, 2), draw(3, 3)])
RuntimeError: draw(2, 3).add(draw(4))
RuntimeError: torch.ones(2).item()
RuntimeError: bool(torch.ones(2))
RuntimeError: nn.Linear(2, 2).load_state_dict({})
RuntimeError: nn.Conv2d(1, 1, 3)(draw(1, 2, 5, 5))
RuntimeError: torch.stack([draw(2), draw(3)])
RuntimeError: torch.zeros(-1)
RuntimeError: torch.zeros(2, requires_grad=True).numpy()
RuntimeError: draw(2, grad=True).backward()
RuntimeError: draw(2).sum().backward()
IndexError: draw(2)[5]
IndexError: draw(2, 3).transpose(0, 5)
IndexError: F.cross_entropy(draw(2, 3), torch.tensor([0, 5]))
IndexError: nn.Embedding(3, 2)(torch.tensor([5]))
ValueError: torch.tensor([[1, 2], [3]])
ValueError: torch.optim.SGD([], lr=0.1)
ValueError: nn.CrossEntropyLoss(reduction="foo")(draw(2, 3), draw.below(3, 2))
NotImplementedError: nn.Module()(1)
AttributeError: torch.ones(2).foo
"""


def evaluate(expression, lib, draw):
    x, f, n = draw(4, 5, 6), lib.tensor([[1.0, 2.5], [4.0, 0.5]]), lib.tensor([[1, 2], [3, 4]])
    names = {"x": x, "f": f, "n": n, "v": draw(3), "w": draw(3), "img": draw(2, 4, 6, 6), "np": np, "draw": draw}
    return eval(expression, {**names, "torch": lib, "nn": lib.nn, "F": lib.nn.functional})


def lines(text):
    return text.strip().splitlines()


@pytest.mark.parametrize("expression", lines(INDEXING) + lines(BASICS) + lines(FUNCTIONS))
@pytest.mark.filterwarnings("ignore")
def test_value(expression):
    assert_same(lambda lib, draw: evaluate(expression, lib, draw), expression)


@pytest.mark.parametrize("expression", lines(PRINTED))
def test_printing(expression):
    assert_same(lambda lib, draw: repr(evaluate(expression, lib, draw)), expression)


@pytest.mark.parametrize("line", lines(RAISES))
def test_exception(line):
    name, expression = line.split(": ", 1)

    for lib in (torch, pydlx):
        with pytest.raises(getattr(builtins, name)):
            evaluate(expression, lib, Draw(lib))


def assignments(lib, draw):
    y = draw(4, 5, 6)
    y[0] = 1
    y[:, 1] += 2
    y[y < 0] = 0
    y[1, 2:4, [0, 1]] = lib.tensor([7.0, 8.0])
    y[..., 0] *= -1
    y[2] = lib.arange(6).float()
    x = lib.zeros(3, 4)
    x[1].fill_(2)
    x.T[0].add_(1)
    x.view(-1)[5] = 9
    half = x.narrow(1, 0, 2)
    half *= 2
    x.diagonal().copy_(lib.tensor([7.0, 8.0, 9.0]))
    x.masked_fill_(x == 9, -1).clamp_(min=-1).sub_(1).div_(2)
    first, _ = x.chunk(2, 1)
    first.zero_()
    return [y, x, half]


def gradients(lib, draw):
    x = lib.tensor([2.0, 3.0], requires_grad=True)
    (g,) = lib.autograd.grad((x**3).sum(), x, create_graph=True, only_inputs=True)
    (h,) = lib.autograd.grad(g.sum(), x)
    w = lib.ones(2, requires_grad=True)
    with lib.no_grad():
        w -= 0.1 * lib.ones(2)
    (x * w).sum().backward(lib.tensor(2.0))
    functional = lib.autograd.functional
    return [
        *(g, h, x.grad, w.grad, x.is_leaf, g.is_leaf, x.detach().requires_grad),
        functional.jacobian(lambda t: t**2, x.detach()),
        functional.hessian(lambda t: (t**3).sum(), x.detach()),
        functional.vjp(lambda t: t.outer(t), x.detach(), lib.ones(2, 2)),
        functional.jvp(lambda t: t.outer(t), x.detach(), lib.ones(2)),
        functional.hvp(lambda t: (t**3).prod(), x.detach(), lib.ones(2)),
    ]


def flags(lib, draw):
    lib.backends.cudnn.deterministic = True
    lib.backends.cudnn.benchmark = False
    lib.cuda.manual_seed_all(1)
    lib.use_deterministic_algorithms(True)
    on = lib.are_deterministic_algorithms_enabled()
    lib.use_deterministic_algorithms(False)
    lib.set_printoptions(precision=4)
    lib.manual_seed(0)
    first = lib.rand(3)
    lib.manual_seed(0)
    return [on, lib.equal(first, lib.rand(3)), lib.randperm(5).sort()[0]]


@pytest.mark.parametrize("program", [assignments, gradients, flags], ids=lambda program: program.__name__)
def test_program(program):
    assert_same(program, program.__name__)
