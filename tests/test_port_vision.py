"""Networks for images and features, trained as in courses and tutorials."""

import copy

import pytest
from ports import Programs, assert_same

PROGRAMS = Programs()


@PROGRAMS
def mlp_mnist(torch, draw):
    nn = torch.nn
    F = torch.nn.functional
    optim = torch.optim
    data = torch.utils.data

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(28 * 28, 32)
            self.fc2 = nn.Linear(32, 10)
            self.drop = nn.Dropout(0.0)

        def forward(self, x):
            x = x.view(-1, 28 * 28)
            x = F.relu(self.fc1(x))
            x = self.drop(x)
            return F.log_softmax(self.fc2(x), dim=1)

    m = draw.fill(Net())
    opt = optim.SGD(m.parameters(), lr=0.01, momentum=0.9)
    out = []
    ds = data.TensorDataset(draw(40, 1, 28, 28), draw.below(10, 40))
    for _epoch in range(2):
        m.train()
        running = 0.0
        correct = 0
        for _, (x, target) in enumerate(data.DataLoader(ds, batch_size=16)):
            x, target = x.to("cpu"), target.to("cpu")
            opt.zero_grad()
            o = m(x)
            loss = F.nll_loss(o, target)
            loss.backward()
            opt.step()
            running += loss.item() * x.size(0)
            pred = o.argmax(dim=1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
        out += [running, correct]
    m.eval()
    test_loss = 0
    with torch.no_grad():
        for d, t in data.DataLoader(ds, 20):
            test_loss += F.nll_loss(m(d), t, reduction="sum").item()
    return [*out, test_loss / len(ds)]


@PROGRAMS
def cnn(torch, draw):
    nn = torch.nn
    optim = torch.optim
    m = draw.fill(
        nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),
            nn.Flatten(),
            nn.Linear(400, 10),
        )
    )
    opt = optim.Adam(m.parameters(), lr=1e-3, weight_decay=1e-4)
    crit = nn.CrossEntropyLoss(label_smoothing=0.1)
    x, y = draw(8, 1, 28, 28), draw.below(10, 8)
    out = []
    for _ in range(3):
        opt.zero_grad(set_to_none=True)
        l = crit(m(x), y)
        l.backward()
        opt.step()
        out.append(l.item())
    return [*out, m]


@PROGRAMS
def resnet_block(torch, draw):
    nn = torch.nn
    F = torch.nn.functional
    optim = torch.optim

    class Block(nn.Module):
        expansion = 1

        def __init__(self, i, o, stride=1):
            super().__init__()
            self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(o)
            self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(o)
            self.shortcut = nn.Sequential()
            if stride != 1 or i != o:
                self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            out = F.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += self.shortcut(x)
            return F.relu(out)

    m = draw.fill(
        nn.Sequential(Block(3, 8), Block(8, 16, 2), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1), nn.Linear(16, 5))
    )
    opt = optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    sched = optim.lr_scheduler.CosineAnnealingLR(opt, T_max=5)
    x, y = draw(4, 3, 16, 16), draw.below(5, 4)
    out = []
    for _ in range(3):
        l = F.cross_entropy(m(x), y)
        opt.zero_grad()
        l.backward()
        opt.step()
        sched.step()
        out += [l.item(), sched.get_last_lr()[0]]
    m.eval()
    return [*out, m(x), dict(m.state_dict()), str(m)]


@PROGRAMS
def vae(torch, draw):
    nn = torch.nn
    F = torch.nn.functional
    optim = torch.optim

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(20, 16)
            self.fc21 = nn.Linear(16, 4)
            self.fc22 = nn.Linear(16, 4)
            self.fc3 = nn.Linear(4, 16)
            self.fc4 = nn.Linear(16, 20)

        def encode(self, x):
            h = F.relu(self.fc1(x))
            return self.fc21(h), self.fc22(h)

        def reparameterize(self, mu, logvar):
            std = torch.exp(0.5 * logvar)
            eps = torch.ones_like(std) * 0.3 + 0 * torch.randn_like(std)
            return mu + eps * std

        def decode(self, z):
            return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

        def forward(self, x):
            mu, lv = self.encode(x.view(-1, 20))
            return self.decode(self.reparameterize(mu, lv)), mu, lv

    m = draw.fill(VAE())
    x = torch.sigmoid(draw(6, 20))
    opt = optim.Adam(m.parameters(), lr=1e-3)
    out = []
    for _ in range(3):
        r, mu, lv = m(x)
        BCE = F.binary_cross_entropy(r, x.view(-1, 20), reduction="sum")
        KLD = -0.5 * torch.sum(1 + lv - mu.pow(2) - lv.exp())
        opt.zero_grad()
        (BCE + KLD).backward()
        opt.step()
        out += [BCE.item(), KLD.item()]
    return out


@PROGRAMS
def gan(torch, draw):
    nn = torch.nn
    optim = torch.optim
    G = draw.fill(
        nn.Sequential(
            nn.ConvTranspose2d(8, 4, 4, 1, 0, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(True),
            nn.ConvTranspose2d(4, 1, 4, 2, 1),
            nn.Tanh(),
        )
    )
    D = draw.fill(
        nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(4, 1, 4, 1, 0), nn.Sigmoid())
    )
    oD = optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    oG = optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
    bce = nn.BCELoss()
    real = draw(4, 1, 8, 8)
    noise = draw(4, 8, 1, 1)
    out = []
    for _ in range(2):
        D.zero_grad()
        label = torch.full((4,), 1.0, dtype=torch.float, device="cpu")
        o = D(real).view(-1)
        e = bce(o, label)
        e.backward()
        dx = o.mean().item()
        fake = G(noise)
        label.fill_(0.0)
        e2 = bce(D(fake.detach()).view(-1), label)
        e2.backward()
        oD.step()
        G.zero_grad()
        label.fill_(1.0)
        e3 = bce(D(fake).view(-1), label)
        e3.backward()
        oG.step()
        out += [dx, e.item(), e2.item(), e3.item()]
    return out


@PROGRAMS
def wgan_gp(torch, draw):
    nn = torch.nn
    D = draw.fill(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)))
    real, fake = draw(6, 5), draw(6, 5)
    alpha = torch.sigmoid(draw(6, 1))
    inter = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    d = D(inter)
    g = torch.autograd.grad(
        outputs=d, inputs=inter, grad_outputs=torch.ones_like(d), create_graph=True, retain_graph=True, only_inputs=True
    )[0]
    gp = ((g.norm(2, dim=1) - 1) ** 2).mean()
    gp.backward()
    return [gp] + [p.grad for p in D.parameters()]


@PROGRAMS
def unet_mini(torch, draw):
    nn = torch.nn
    F = torch.nn.functional

    class U(nn.Module):
        def __init__(self):
            super().__init__()
            self.d = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
            self.p = nn.MaxPool2d(2)
            self.m = nn.Conv2d(4, 8, 3, padding=1)
            self.u = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.up2 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.o = nn.Conv2d(8, 1, 1)

        def forward(self, x):
            a = self.d(x)
            b = self.m(self.p(a))
            c = self.u(b)
            dy = a.size()[2] - c.size()[2]
            c = F.pad(c, [0, 0, dy // 2, dy - dy // 2])
            return torch.sigmoid(self.o(torch.cat([c, a], dim=1)))

    m = draw.fill(U())
    x = draw(2, 1, 8, 8)
    y = (draw(2, 1, 8, 8) > 0).float()
    p = m(x)
    inter = (p * y).sum()
    dice = 1 - (2.0 * inter + 1) / (p.sum() + y.sum() + 1)
    (dice + F.binary_cross_entropy(p, y)).backward()
    return [p, dice, m.d[0].weight.grad]


@PROGRAMS
def style_gram(torch, draw):
    F = torch.nn.functional
    x = draw(1, 3, 4, 4, grad=True)
    a, b, c, d = x.size()
    f = x.view(a * b, c * d)
    G = torch.mm(f, f.t()).div(a * b * c * d)
    l = F.mse_loss(G, torch.zeros_like(G))
    l.backward()
    return [G, x.grad, torch.bmm(draw(2, 3, 4), draw(2, 4, 5)), torch.clamp(x.data, 0, 1)]


@PROGRAMS
def siamese(torch, draw):
    nn = torch.nn
    F = torch.nn.functional
    net = draw.fill(nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)))
    a, b, c = draw(5, 6), draw(5, 6), draw(5, 6)
    lab = draw.below(2, 5).float()
    o1, o2 = net(a), net(b)
    d = F.pairwise_distance(o1, o2, keepdim=True)
    l = torch.mean((1 - lab) * torch.pow(d, 2) + lab * torch.pow(torch.clamp(2.0 - d, min=0.0), 2))
    tl = nn.TripletMarginLoss(margin=1.0, p=2)(net(a), net(b), net(c))
    cs = F.cosine_similarity(o1, o2)
    (l + tl).backward()
    return [l, tl, cs, [p.grad for p in net.parameters()]]


@PROGRAMS
def linear_regression_raw(torch, draw):
    X = draw(50, 3)
    y = X @ torch.tensor([1.0, 2.0, 3.0]) + 0.5
    w = torch.zeros(3, requires_grad=True)
    b = torch.zeros(1, requires_grad=True)
    for _ in range(50):
        l = ((X @ w + b - y) ** 2).mean()
        l.backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
            b -= 0.1 * b.grad
            w.grad.zero_()
            b.grad.zero_()
    return [w, b, l]


@PROGRAMS
def policy_gradient(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(dim=-1)))
    st = draw(6, 4)
    a = draw.below(2, 6)
    R = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.0, 1.0])
    R = (R - R.mean()) / (R.std() + 1e-9)
    lp = torch.log(m(st).gather(1, a.unsqueeze(1)).squeeze(1))
    l = torch.stack([-x * r for x, r in zip(lp, R)]).sum()
    l.backward()
    return [l, [p.grad for p in m.parameters()]]


@PROGRAMS
def dqn_update(torch, draw):
    nn = torch.nn
    F = torch.nn.functional
    m = draw.fill(nn.Linear(4, 3))
    t = copy.deepcopy(m)
    s_, s2 = draw(5, 4), draw(5, 4)
    a = draw.below(3, 5, 1)
    r = draw(5)
    done = torch.tensor([0, 1, 0, 0, 1]).bool()
    q = m(s_).gather(1, a)
    nv = torch.zeros(5)
    nv[~done] = t(s2[~done]).max(1)[0].detach()
    e = nv * 0.9 + r
    l = F.smooth_l1_loss(q, e.unsqueeze(1))
    l.backward()
    for p in m.parameters():
        p.grad.data.clamp_(-1, 1)
    t.load_state_dict({k: 0.5 * v + 0.5 * t.state_dict()[k] for k, v in m.state_dict().items()})
    return [l, q, nv, m.weight.grad, t.weight]


@PROGRAMS
def freeze_finetune(torch, draw):
    nn = torch.nn
    optim = torch.optim
    m = draw.fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    for p in m[0].parameters():
        p.requires_grad = False
    m[2] = draw.fill(nn.Linear(4, 7))
    o = optim.Adam(filter(lambda p: p.requires_grad, m.parameters()), lr=1e-3)
    m(draw(2, 3)).sum().backward()
    o.step()
    return [m[0].weight.grad is None, m[2].weight, sum(p.numel() for p in m.parameters() if p.requires_grad)]


@PROGRAMS
def lbfgs(torch, draw):
    optim = torch.optim
    x = torch.tensor([-1.5, 2.0], requires_grad=True)
    o = optim.LBFGS([x], lr=0.5, max_iter=10)

    def closure():
        o.zero_grad()
        l = (1 - x[0]) ** 2 + 10 * (x[1] - x[0] ** 2) ** 2
        l.backward()
        return l

    for _ in range(4):
        l = o.step(closure)
    return [x, l]


@PROGRAMS
def accumulate_clip(torch, draw):
    nn = torch.nn
    F = torch.nn.functional
    optim = torch.optim
    m = draw.fill(nn.Linear(4, 2))
    o = optim.SGD(m.parameters(), lr=0.1)
    x, y = draw(8, 4), draw(8, 2)
    out = []
    for i in range(4):
        l = F.mse_loss(m(x[i * 2 : i * 2 + 2]), y[i * 2 : i * 2 + 2]) / 2
        l.backward()
        if (i + 1) % 2 == 0:
            out.append(nn.utils.clip_grad_norm_(m.parameters(), max_norm=0.5))
            nn.utils.clip_grad_value_(m.parameters(), 0.2)
            o.step()
            o.zero_grad()
    return [*out, m.weight, m.bias]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program(program):
    assert_same(program, program.__name__)
