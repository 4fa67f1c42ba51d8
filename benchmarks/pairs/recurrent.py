"""
Recurrent networks: torch's own layers and cells written by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import called, mapped, tokens

# --------------------------------------------------------- a language model of LSTMs


class RNNModel(nn.Module):
    def __init__(self, ntoken: int = 71, ninp: int = 24, nhid: int = 40, nlayers: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, batch_first=True)
        self.decoder = nn.Linear(nhid, ntoken)

    def forward(self, ids: Tensor) -> Tensor:
        return self.decoder(self.rnn(self.encoder(ids))[0])


class GatedCell(nn.Module):
    """Four gates apart, each with a layer for what comes in and one for what was there."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        for gate in ("forget", "input", "output", "candidate"):
            setattr(self, f"{gate}_x", nn.Linear(size, hidden))
            setattr(self, f"{gate}_h", nn.Linear(hidden, hidden))

    def gate(self, name: str, x: Tensor, h: Tensor) -> Tensor:
        return getattr(self, f"{name}_x")(x) + getattr(self, f"{name}_h")(h)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.gate("forget", x, h).sigmoid() * c
        c = kept + self.gate("input", x, h).sigmoid() * self.gate("candidate", x, h).tanh()
        return self.gate("output", x, h).sigmoid() * c.tanh(), c


class KernelCell(nn.Module):
    """Gates together, another order, transposed."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(size, 4 * hidden))
        self.recurrent_kernel = nn.Parameter(torch.zeros(hidden, 4 * hidden))
        self.bias_in = nn.Parameter(torch.zeros(4 * hidden))
        self.bias_recurrent = nn.Parameter(torch.zeros(4 * hidden))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = x @ self.kernel + self.bias_in + h @ self.recurrent_kernel + self.bias_recurrent
        i, j, f, o = z.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * j.tanh()
        return o.sigmoid() * c.tanh(), c


def unrolled(cell: nn.Module, x: Tensor, hidden: int) -> Tensor:
    """All hidden states of a cell with a memory."""
    h = c = x.new_zeros(x.shape[0], hidden)
    states = []
    for at in range(x.shape[1]):
        h, c = cell(x[:, at], h, c)
        states.append(h)
    return torch.stack(states, 1)


class HandWritten(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.readout = nn.Linear(40, 71)
        self.lookup = nn.Embedding(71, 24)
        self.cells = nn.ModuleList([cell(24, 40), cell(40, 40)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.lookup(ids)
        for cell in self.cells:
            x = unrolled(cell, x, 40)
        return self.readout(x)


@pair("lstm-torch-gates", family="lstm", transforms=True)
def _lstm_gates() -> Pair:
    target = HandWritten(GatedCell)
    rules = {"readout": "decoder", "lookup": "encoder"}
    for at, gate in enumerate(("input", "forget", "candidate", "output")):
        for leaf in ("weight", "bias"):
            for ours, theirs in (("x", "ih"), ("h", "hh")):
                rules[f"cells.*.{gate}_{ours}.{leaf}"] = (
                    f"rnn.{leaf}_{theirs}_l* : take(0, {at * 40}, {at * 40 + 40}, 1)"
                )
    ids = tokens(2, 7, 71)
    return Pair(RNNModel(), target, mapped(target, rules), called(ids), called(ids))


@pair("lstm-torch-kernels", family="lstm", transforms=True)
def _lstm_kernels() -> Pair:
    target = HandWritten(KernelCell)
    truth = mapped(target, {
        "readout": "decoder",
        "lookup": "encoder",
        "cells.*.kernel": "rnn.weight_ih_l* : reorder(0, 0, 2, 1, 3) | transpose",
        "cells.*.recurrent_kernel": "rnn.weight_hh_l* : reorder(0, 0, 2, 1, 3) | transpose",
        "cells.*.bias_in": "rnn.bias_ih_l* : reorder(0, 0, 2, 1, 3)",
        "cells.*.bias_recurrent": "rnn.bias_hh_l* : reorder(0, 0, 2, 1, 3)",
    })  # fmt: skip
    ids = tokens(2, 7, 71)
    return Pair(RNNModel(), target, truth, called(ids), called(ids))


# ------------------------------------------------------------- both ways, for labels


class BiTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeds = nn.Embedding(83, 20)
        self.lstm = nn.LSTM(20, 28, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden2tag = nn.Linear(56, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.hidden2tag(self.lstm(self.word_embeds(ids))[0])


class TwoWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backward_layers = nn.ModuleList([nn.LSTM(size, 28, batch_first=True) for size in (20, 56)])
        self.forward_layers = nn.ModuleList([nn.LSTM(size, 28, batch_first=True) for size in (20, 56)])
        self.classifier = nn.Linear(56, 9)
        self.tokens = nn.Embedding(83, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for ahead, back in zip(self.forward_layers, self.backward_layers):
            x = torch.cat([ahead(x)[0], back(x.flip(1))[0].flip(1)], -1)
        return self.classifier(x)


@pair("bilstm-torch-two", family="lstm")
def _bilstm_two() -> Pair:
    target = TwoWays()
    rules = {"classifier": "hidden2tag", "tokens": "word_embeds"}
    for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        rules[f"forward_layers.*.{leaf}_l0"] = f"lstm.{leaf}_l*"
        rules[f"backward_layers.*.{leaf}_l0"] = f"lstm.{leaf}_l*_reverse"
    ids = tokens(2, 7, 83)
    return Pair(BiTagger(), target, mapped(target, rules), called(ids), called(ids))


@pair("bilstm-two-torch", family="lstm")
def _bilstm_one() -> Pair:
    target = BiTagger()
    rules = {"hidden2tag": "classifier", "word_embeds": "tokens"}
    for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        rules[f"lstm.{leaf}_l*"] = f"forward_layers.*.{leaf}_l0"
        rules[f"lstm.{leaf}_l*_reverse"] = f"backward_layers.*.{leaf}_l0"
    ids = tokens(2, 7, 83)
    return Pair(TwoWays(), target, mapped(target, rules), called(ids), called(ids))


# ------------------------------------------------------- sequences to sequences: GRU


class AttnTranslator(nn.Module):
    """Additive attention over what a GRU read, a GRU that writes."""

    def __init__(self, source: int = 61, goal: int = 53, width: int = 24, hidden: int = 36) -> None:
        super().__init__()
        self.encoder_embedding = nn.Embedding(source, width)
        self.encoder_gru = nn.GRU(width, hidden, batch_first=True)
        self.decoder_embedding = nn.Embedding(goal, width)
        self.Wa = nn.Linear(hidden, hidden)
        self.Ua = nn.Linear(hidden, hidden)
        self.Va = nn.Linear(hidden, 1)
        self.decoder_gru = nn.GRU(width + hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, goal)

    def forward(self, ids: Tensor, goal: Tensor) -> Tensor:
        memory, state = self.encoder_gru(self.encoder_embedding(ids))
        scores = []
        for at in range(goal.shape[1]):
            weights = self.Va((self.Wa(state[0])[:, None] + self.Ua(memory)).tanh()).softmax(1)
            context = (weights * memory).sum(1)
            x = torch.cat([self.decoder_embedding(goal[:, at]), context], -1)
            y, state = self.decoder_gru(x[:, None], state)
            scores.append(self.out(y[:, 0]))
        return torch.stack(scores, 1)


class GRUCellByHand(nn.Module):
    """Update gate first, as some have it."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.x2h = nn.Linear(size, 3 * hidden)
        self.h2h = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        (xz, xr, xn), (hz, hr, hn) = self.x2h(x).chunk(3, -1), self.h2h(h).chunk(3, -1)
        z = (xz + hz).sigmoid()
        return z * h + (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh()


class BahdanauAttention(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.energy = nn.Linear(hidden, 1)
        self.keys = nn.Linear(hidden, hidden)
        self.query = nn.Linear(hidden, hidden)

    def forward(self, state: Tensor, memory: Tensor) -> Tensor:
        weights = self.energy((self.query(state)[:, None] + self.keys(memory)).tanh()).softmax(1)
        return (weights * memory).sum(1)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(61, 24)
        self.cell = GRUCellByHand(24, 36)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(ids)
        h = x.new_zeros(x.shape[0], 36)
        states = [h := self.cell(x[:, at], h) for at in range(x.shape[1])]
        return torch.stack(states, 1), h


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(36, 53)
        self.attention = BahdanauAttention(36)
        self.embed = nn.Embedding(53, 24)
        self.cell = GRUCellByHand(60, 36)

    def forward(self, goal: Tensor, memory: Tensor, h: Tensor) -> Tensor:
        scores = []
        for at in range(goal.shape[1]):
            x = torch.cat([self.embed(goal[:, at]), self.attention(h, memory)], -1)
            h = self.cell(x, h)
            scores.append(self.generator(h))
        return torch.stack(scores, 1)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dec = Writer()
        self.enc = Reader()

    def forward(self, ids: Tensor, goal: Tensor) -> Tensor:
        return self.dec(goal, *self.enc(ids))


@pair("seq2seq-gru-torch-plain", family="seq2seq-gru", transforms=True)
def _seq2seq() -> Pair:
    target = Seq2Seq()
    rules = {
        "enc.embed": "encoder_embedding", "dec.embed": "decoder_embedding", "dec.generator": "out",
        "dec.attention.query": "Wa", "dec.attention.keys": "Ua", "dec.attention.energy": "Va",
    }  # fmt: skip
    for side, name in (("enc", "encoder_gru"), ("dec", "decoder_gru")):
        for layer, leaf in (("x2h", "ih"), ("h2h", "hh")):
            for kind in ("weight", "bias"):
                rules[f"{side}.cell.{layer}.{kind}"] = f"{name}.{kind}_{leaf}_l0 : reorder(0, 1, 0, 2)"
    ids, goal = tokens(2, 6, 61), tokens(2, 5, 53)
    truth = mapped(target, rules)
    return Pair(
        AttnTranslator(), target, truth, called(ids, goal), called(ids, goal),
        free=("dec.attention.energy.bias",),
    )  # fmt: skip


# ------------------------------------------------------------ GRU with gates apart


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 18, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(18)
        self.fc = nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.gru(x)[0]))


class ApartGRUCell(nn.Module):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.Wz, self.Uz = nn.Linear(size, hidden), nn.Linear(hidden, hidden)
        self.Wr, self.Ur = nn.Linear(size, hidden), nn.Linear(hidden, hidden)
        self.Wh, self.Uh = nn.Linear(size, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z, r = (self.Wz(x) + self.Uz(h)).sigmoid(), (self.Wr(x) + self.Ur(h)).sigmoid()
        return z * h + (1 - z) * (self.Wh(x) + r * self.Uh(h)).tanh()


class ApartForecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = ApartGRUCell(5, 18)
        self.layer2 = ApartGRUCell(18, 18)
        self.head = nn.Sequential(nn.LayerNorm(18), nn.Linear(18, 3))

    def forward(self, x: Tensor) -> Tensor:
        for cell in (self.layer1, self.layer2):
            h = x.new_zeros(x.shape[0], 18)
            x = torch.stack([h := cell(x[:, at], h) for at in range(x.shape[1])], 1)
        return self.head(x)


@pair("gru-torch-gates", family="gru", transforms=True)
def _gru_gates() -> Pair:
    target = ApartForecaster()
    rules = {"head.0": "norm", "head.1": "fc"}
    for layer in (1, 2):
        for at, gate in enumerate("rzh"):
            for kind in ("weight", "bias"):
                for ours, theirs in (("W", "ih"), ("U", "hh")):
                    rules[f"layer{layer}.{ours}{gate}.{kind}"] = (
                        f"gru.{kind}_{theirs}_l{layer - 1} : take(0, {at * 18}, {at * 18 + 18}, 1)"
                    )
    series = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    return Pair(Forecaster(), target, mapped(target, rules), called(series), called(series))
