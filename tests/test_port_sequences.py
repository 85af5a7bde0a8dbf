"""Networks for sequences: recurrent ones, transformers, embeddings."""

import math

import pytest
from ports import Programs, assert_same

PROGRAMS = Programs()


@PROGRAMS
def lstm_lm(torch, draw):
    nn = torch.nn
    F = torch.nn.functional

    class RNNModel(nn.Module):
        def __init__(self, ntoken=11, ninp=6, nhid=6):
            super().__init__()
            self.encoder = nn.Embedding(ntoken, ninp)
            self.rnn = nn.LSTM(ninp, nhid, 2, dropout=0.0)
            self.decoder = nn.Linear(nhid, ntoken)
            self.decoder.weight = self.encoder.weight
            self.nhid = nhid

        def init_hidden(self, bsz):
            w = next(self.parameters())
            return (w.new_zeros(2, bsz, self.nhid), w.new_zeros(2, bsz, self.nhid))

        def forward(self, inp, hidden):
            e = self.encoder(inp)
            o, h = self.rnn(e, hidden)
            d = self.decoder(o)
            return F.log_softmax(d.view(-1, 11), dim=1), h

    m = draw.fill(RNNModel())
    data = draw.below(11, 13, 3)
    h = m.init_hidden(3)
    out = []
    for i in range(0, 12, 4):
        x, y = data[i : i + 4], data[i + 1 : i + 5].reshape(-1)
        m.zero_grad()
        h = tuple(v.detach() for v in h)
        o, h = m(x, h)
        l = nn.NLLLoss()(o, y)
        l.backward()
        n = torch.nn.utils.clip_grad_norm_(m.parameters(), 0.25)
        for p in m.parameters():
            p.data.add_(p.grad, alpha=-2.0)
        out += [l.item(), math.exp(l.item()), n]
    return [*out, sorted(k for k, _ in m.named_parameters())]


@PROGRAMS
def char_rnn_manual(torch, draw):
    nn = torch.nn

    class RNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.i2h = nn.Linear(5 + 7, 7)
            self.i2o = nn.Linear(12, 3)
            self.softmax = nn.LogSoftmax(dim=1)

        def forward(self, i, h):
            c = torch.cat((i, h), 1)
            return self.softmax(self.i2o(c)), self.i2h(c)

        def initHidden(self):
            return torch.zeros(1, 7)

    m = draw.fill(RNN())
    line = torch.zeros(4, 1, 5)
    for li, k in enumerate([1, 3, 0, 4]):
        line[li][0][k] = 1
    h = m.initHidden()
    for i in range(line.size()[0]):
        o, h = m(line[i], h)
    l = nn.NLLLoss()(o, torch.tensor([2], dtype=torch.long))
    l.backward()
    top_n, top_i = o.topk(1)
    return [o, h, l, top_i[0].item(), [p.grad for p in m.parameters()]]


@PROGRAMS
def gru_packed(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.GRU(4, 5, num_layers=2, batch_first=True, bidirectional=True))
    x = draw(3, 6, 4, grad=True)
    lens = torch.tensor([6, 2, 4])
    p = nn.utils.rnn.pack_padded_sequence(x, lens, batch_first=True, enforce_sorted=False)
    o, h = m(p)
    o, l = nn.utils.rnn.pad_packed_sequence(o, batch_first=True, padding_value=-1.0)
    o.sum().backward()
    return [o, l, h, x.grad]


@PROGRAMS
def transformer_encoder(torch, draw):
    nn = torch.nn

    class PE(nn.Module):
        def __init__(self, d, n=50):
            super().__init__()
            pe = torch.zeros(n, d)
            pos = torch.arange(0, n, dtype=torch.float).unsqueeze(1)
            div = torch.exp(torch.arange(0, d, 2).float() * (-math.log(10000.0) / d))
            pe[:, 0::2] = torch.sin(pos * div)
            pe[:, 1::2] = torch.cos(pos * div)
            pe = pe.unsqueeze(0).transpose(0, 1)
            self.register_buffer("pe", pe)

        def forward(self, x):
            return x + self.pe[: x.size(0), :]

    d = 8
    enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(d, 2, 16, 0.0), 2)
    draw.fill(enc)
    pe = PE(d)
    x = draw(7, 3, d)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    pad = torch.zeros(3, 7, dtype=torch.bool)
    o = enc(pe(x), mask=mask)
    o2 = enc(pe(x), src_key_padding_mask=pad)
    o.sum().backward()
    return [o, o2, mask, pe.pe, [p.grad for p in enc.parameters()]]


@PROGRAMS
def gpt_block(torch, draw):
    nn = torch.nn
    F = torch.nn.functional
    optim = torch.optim

    class Attn(nn.Module):
        def __init__(self, C, H, T_):
            super().__init__()
            self.c_attn = nn.Linear(C, 3 * C)
            self.c_proj = nn.Linear(C, C)
            self.H = H
            self.register_buffer("bias", torch.tril(torch.ones(T_, T_)).view(1, 1, T_, T_))

        def forward(self, x):
            B, T_, C = x.size()
            q, k, v = self.c_attn(x).split(C, dim=2)
            k = k.view(B, T_, self.H, C // self.H).transpose(1, 2)
            q = q.view(B, T_, self.H, C // self.H).transpose(1, 2)
            v = v.view(B, T_, self.H, C // self.H).transpose(1, 2)
            att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            att = att.masked_fill(self.bias[:, :, :T_, :T_] == 0, float("-inf"))
            att = F.softmax(att, dim=-1)
            y = att @ v
            y2 = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0, is_causal=True)
            assert (y - y2).abs().max() < 1e-5
            return self.c_proj(y.transpose(1, 2).contiguous().view(B, T_, C))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1 = nn.LayerNorm(8)
            self.attn = Attn(8, 2, 10)
            self.ln_2 = nn.LayerNorm(8)
            self.mlp = nn.ModuleDict(
                {"c_fc": nn.Linear(8, 32), "act": nn.GELU(), "c_proj": nn.Linear(32, 8), "dropout": nn.Dropout(0.0)}
            )
            m = self.mlp
            self.mlpf = lambda x: m.dropout(m.c_proj(m.act(m.c_fc(x))))

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlpf(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.ModuleDict(
                {
                    "wte": nn.Embedding(13, 8),
                    "wpe": nn.Embedding(10, 8),
                    "h": nn.ModuleList([Block() for _ in range(2)]),
                    "ln_f": nn.LayerNorm(8),
                }
            )
            self.lm_head = nn.Linear(8, 13, bias=False)
            self.transformer.wte.weight = self.lm_head.weight

        def forward(self, idx, targets=None):
            b, t = idx.size()
            pos = torch.arange(0, t, dtype=torch.long, device=idx.device).unsqueeze(0)
            x = self.transformer.wte(idx) + self.transformer.wpe(pos)
            for b_ in self.transformer.h:
                x = b_(x)
            x = self.transformer.ln_f(x)
            logits = self.lm_head(x)
            loss = (
                F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
                if targets is not None
                else None
            )
            return logits, loss

    m = draw.fill(GPT())
    idx = draw.below(13, 2, 10)
    decay = [p for n, p in m.named_parameters() if p.dim() >= 2]
    nod = [p for n, p in m.named_parameters() if p.dim() < 2]
    opt = optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": nod, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.95),
        fused=False,
    )
    out = [sum(p.numel() for p in m.parameters())]
    for _ in range(2):
        lg, l = m(idx, idx.roll(-1, 1))
        opt.zero_grad(set_to_none=True)
        l.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        out += [l, lg]
    with torch.no_grad():
        lg, _ = m(idx[:, -5:])
        lg = lg[:, -1, :] / 0.8
        v, _ = torch.topk(lg, min(4, lg.size(-1)))
        lg[lg < v[:, [-1]]] = -float("Inf")
        pr = F.softmax(lg, dim=-1)
        nxt = torch.multinomial(torch.tensor([[0.0, 1.0]]), num_samples=1)
        out += [pr, nxt, torch.cat((idx, nxt.expand(2, 1)), dim=1)]
    return out


@PROGRAMS
def seq2seq_transformer(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True))
    s_, t = draw(2, 5, 8), draw(2, 4, 8)
    o = m(s_, t, tgt_mask=m.generate_square_subsequent_mask(4), tgt_is_causal=True)
    return [o, list(m.state_dict())]


@PROGRAMS
def mha(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.MultiheadAttention(8, 2, batch_first=True))
    x = draw(2, 5, 8)
    pad = torch.tensor([[False] * 5, [False, False, False, True, True]])
    o, w = m(x, x, x, key_padding_mask=pad)
    o2, w2 = m(x, x, x, attn_mask=torch.triu(torch.ones(5, 5, dtype=torch.bool), 1), average_attn_weights=False)
    return [o, w, o2, w2, list(m.state_dict())]


@PROGRAMS
def bert_embed_mask(torch, draw):
    nn = torch.nn
    emb = draw.fill(nn.Embedding(10, 4, padding_idx=0))
    ids = torch.tensor([[1, 2, 0], [3, 0, 0]])
    mask = (ids != 0).unsqueeze(1).unsqueeze(2)
    e = emb(ids)
    sc = torch.matmul(e, e.transpose(-1, -2))
    sc = sc + (1.0 - mask.squeeze(1).float()) * -10000.0
    pr = nn.Softmax(dim=-1)(sc)
    pooled = (e * (ids != 0).unsqueeze(-1)).sum(1) / (ids != 0).sum(1, keepdim=True)
    pooled.sum().backward()
    return [pr, pooled, emb.weight.grad, mask.shape]


@PROGRAMS
def embedding_bag(torch, draw):
    nn = torch.nn
    m = draw.fill(nn.EmbeddingBag(10, 3, mode="sum"))
    o = m(torch.tensor([1, 2, 4, 5, 4, 3, 2, 9]), torch.tensor([0, 4]))
    o.sum().backward()
    m2 = nn.EmbeddingBag.from_pretrained(torch.ones(4, 2), mode="mean")
    return [o, m.weight.grad, m2(torch.tensor([[0, 1], [2, 3]]))]


@PROGRAMS
def lstm_cell_loop(torch, draw):
    nn = torch.nn
    c = draw.fill(nn.LSTMCell(3, 4))
    hx = torch.zeros(2, 4)
    cx = torch.zeros(2, 4)
    out = []
    for _ in range(3):
        hx, cx = c(draw(2, 3), (hx, cx))
        out.append(hx)
    o = torch.stack(out, dim=0)
    o.sum().backward()
    return [o, c.weight_ih.grad]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program(program):
    assert_same(program, program.__name__)
