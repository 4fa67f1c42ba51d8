"""
What is neither picture, text nor sound: graphs, tables, points, fields, policies, series.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PatchTSTConfig, PatchTSTForPrediction

from benchmarks.pairs.audio import normed, sound
from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import attend, called, keys_of, mapped, tokens

# ------------------------------------------------------------------------- graphs


def graph(count: int = 9) -> Tensor:
    """A ring with a few chords, each node with itself: rows sum to 1."""
    links = torch.eye(count) + torch.eye(count).roll(1, 0) + torch.eye(count).roll(-1, 0)
    links[0, 4] = links[4, 0] = links[2, 7] = links[7, 2] = 1.0
    return links / links.sum(1, keepdim=True)


class GraphConvolution(nn.Module):
    """Weights lie (in, out)."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(size, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        return links @ (x @ self.weight) + self.bias


class GCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = (14, 24, 24, 24, 5)
        self.gcs = nn.ModuleList([GraphConvolution(*each) for each in pairwise(sizes)])

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        for layer in self.gcs[:-1]:
            x = layer(x, links).relu()
        return self.gcs[-1](x, links)


class Propagate(nn.Module):
    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(size, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        return links @ self.lin(x) + self.bias


class NodeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Propagate(14, 24), Propagate(24, 24)
        self.conv3, self.conv4 = Propagate(24, 24), Propagate(24, 5)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = layer(x, links).relu()
        return self.conv4(x, links)


@pair("gcn-plain-geometric", family="gcn", transforms=True)
def _gcn() -> Pair:
    target = NodeNet()
    rules: dict[str, str] = {}
    for at in range(4):
        rules[f"conv{at + 1}.lin.weight"] = f"gcs.{at}.weight : transpose"
        rules[f"conv{at + 1}.bias"] = f"gcs.{at}.bias"
    x, links = sound(9, 14), graph()
    return Pair(GCN(), target, mapped(target, rules), called(x, links), called(x, links))


class HeadGAT(nn.Module):
    """One head; its vector scores both ends."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.W, self.a = nn.Parameter(torch.zeros(size, out)), nn.Parameter(torch.zeros(2 * out, 1))

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        h = x @ self.W
        ahead, back = self.a.chunk(2)
        scores = functional.leaky_relu(h @ ahead + (h @ back).T, 0.2).masked_fill(links == 0, float("-inf"))
        return scores.softmax(1) @ h


class PaperGAT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for at in range(3):
            self.add_module(f"attention_{at}", HeadGAT(14, 8))
        self.out_att = HeadGAT(24, 5)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        heads = (getattr(self, f"attention_{at}") for at in range(3))
        return self.out_att(torch.cat([functional.elu(head(x, links)) for head in heads], 1), links)


class GATConv(nn.Module):
    """All heads at once."""

    def __init__(self, size: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.lin = nn.Linear(size, heads * out, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.zeros(1, heads, out)) for _ in range(2))

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        h = self.lin(x).unflatten(1, (self.heads, -1))
        ends = (h * self.att_dst).sum(-1)[:, None] + (h * self.att_src).sum(-1)[None]
        scores = functional.leaky_relu(ends, 0.2).masked_fill((links == 0)[..., None], float("-inf"))
        return torch.einsum("ijh,jhd->ihd", scores.softmax(1), h).flatten(1)


class GAT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = GATConv(24, 5, 1), GATConv(14, 8, 3)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        return self.second(functional.elu(self.first(x, links)), links)


@pair("gat-paper-geometric", family="gat", transforms=True)
def _gat() -> Pair:
    target = GAT()
    heads = [f"attention_{at}" for at in range(3)]

    def joined(steps: str, after: str) -> str:
        return " + ".join(f"{head}.a : {steps}" for head in heads) + f" > {after}"

    truth = mapped(target, {
        "first.lin.weight": " + ".join(f"{head}.W : transpose" for head in heads) + " > cat(0, 1)",
        "first.att_dst": joined("take(0, 0, 8, 1) | reshape(1, 8)", "stack(1)"),
        "first.att_src": joined("take(0, 8, 16, 1) | reshape(1, 8)", "stack(1)"),
        "second.lin.weight": "out_att.W : transpose",
        "second.att_dst": "out_att.a : take(0, 0, 5, 1) | reshape(1, 1, 5)",
        "second.att_src": "out_att.a : take(0, 5, 10, 1) | reshape(1, 1, 5)",
    })  # fmt: skip
    x, links = 2 * sound(25, 14), graph(25)
    return Pair(PaperGAT(), target, truth, called(x, links), called(x, links))


# ----------------------------------------------------- fields: eight layers of one shape


class NeRF(nn.Module):
    def __init__(self, width: int = 32, xyz: int = 15, views: int = 9) -> None:
        super().__init__()
        sizes = [xyz, *[width] * 4, width + xyz, width, width]
        self.pts_linears = nn.ModuleList([nn.Linear(size, width) for size in sizes])
        self.views_linears = nn.ModuleList([nn.Linear(views + width, width // 2)])
        self.feature_linear = nn.Linear(width, width)
        self.alpha_linear = nn.Linear(width, 1)
        self.rgb_linear = nn.Linear(width // 2, 3)

    def forward(self, x: Tensor, views: Tensor) -> Tensor:
        h = x
        for at, layer in enumerate(self.pts_linears):
            h = layer(h).relu()
            h = torch.cat([x, h], -1) if at == 4 else h
        y = self.views_linears[0](torch.cat([self.feature_linear(h), views], -1)).relu()
        return torch.cat([self.rgb_linear(y), self.alpha_linear(h)], -1)


class Radiance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for at in range(8):
            size = 15 if at == 0 else 47 if at == 5 else 32
            setattr(self, f"xyz_encoding_{at + 1}", nn.Sequential(nn.Linear(size, 32), nn.ReLU(True)))
        self.xyz_encoding_final = nn.Linear(32, 32)
        self.dir_encoding = nn.Sequential(nn.Linear(41, 16), nn.ReLU(True))
        self.sigma = nn.Linear(32, 1)
        self.rgb = nn.Sequential(nn.Linear(16, 3))

    def forward(self, x: Tensor, views: Tensor) -> Tensor:
        h = x
        for at in range(8):
            h = torch.cat([x, h], -1) if at == 5 else h
            h = getattr(self, f"xyz_encoding_{at + 1}")(h)
        y = self.dir_encoding(torch.cat([self.xyz_encoding_final(h), views], -1))
        return torch.cat([self.rgb(y), self.sigma(h)], -1)


@pair("nerf-paper-lightning", family="nerf")
def _nerf() -> Pair:
    target = Radiance()
    rules = {
        "xyz_encoding_final": "feature_linear", "dir_encoding.0": "views_linears.0", "sigma": "alpha_linear",
        "rgb.0": "rgb_linear",
    }  # fmt: skip
    rules |= {f"xyz_encoding_{at + 1}.0": f"pts_linears.{at}" for at in range(8)}
    x, views = sound(40, 15), sound(40, 9)
    return Pair(NeRF(), target, mapped(target, rules), called(x, views), called(x, views))


# ------------------------------------------- policies: two towers that have equal shapes


def layers(*sizes: int) -> list[nn.Module]:
    """Linear layers with a tanh after each."""
    return [each for size in pairwise(sizes) for each in (nn.Linear(*size), nn.Tanh())]


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(*layers(11, 28, 28), nn.Linear(28, 1))
        self.actor_mean = nn.Sequential(*layers(11, 28, 28), nn.Linear(28, 4))
        self.actor_logstd = nn.Parameter(torch.zeros(1, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.critic(x), self.actor_mean(x) * self.actor_logstd.exp()


class Extractor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.policy_net, self.value_net = (nn.Sequential(*layers(11, 28, 28)) for _ in range(2))


class ActorCriticPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(4))
        self.mlp_extractor = Extractor()
        self.action_net, self.value_net = nn.Linear(28, 4), nn.Linear(28, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = self.value_net(self.mlp_extractor.value_net(x))
        return value, self.action_net(self.mlp_extractor.policy_net(x)) * self.log_std.exp()


@pair("actorcritic-plain-policy", family="policy", transforms=True)
def _policy() -> Pair:
    target = ActorCriticPolicy()
    rules = {
        "log_std": "actor_logstd : reshape(4)", "action_net": "actor_mean.4", "value_net": "critic.4",
        "mlp_extractor.policy_net.*": "actor_mean.*", "mlp_extractor.value_net.*": "critic.*",
    }  # fmt: skip
    x = sound(6, 11)
    return Pair(ActorCritic(), target, mapped(target, rules), called(x), called(x))


# --------------------------------------------------- points: convolutions of one, linear


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(3, 20, 1), nn.Conv1d(20, 20, 1), nn.Conv1d(20, 44, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm1d(20), nn.BatchNorm1d(20), nn.BatchNorm1d(44)
        self.fc1, self.fc2 = nn.Linear(44, 20), nn.Linear(20, 7)
        self.bn4 = nn.BatchNorm1d(20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x)).amax(2)
        return self.fc2(self.bn4(self.fc1(x)).relu())


class PointMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 20), (20, 20), (20, 44))
        self.local_nn = nn.ModuleDict({
            "lins": nn.ModuleList([nn.Linear(*each) for each in sizes]),
            "norms": nn.ModuleList([nn.BatchNorm1d(out) for _, out in sizes]),
        })  # fmt: skip
        self.global_nn = nn.Sequential(nn.Linear(44, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 7))

    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self.local_nn
        for at, (lin, norm) in enumerate(zip(parts["lins"], parts["norms"])):
            x = norm(lin(x).transpose(1, 2)).transpose(1, 2)
            x = x.relu() if at < 2 else x
        return self.global_nn(x.amax(1))


@pair("pointnet-plain-geometric", family="pointnet", transforms=True)
def _pointnet() -> Pair:
    target = PointMLP()
    rules = {"global_nn.0": "fc1", "global_nn.1": "bn4", "global_nn.3": "fc2"}
    for at, (size, out) in enumerate(((3, 20), (20, 20), (20, 44))):
        rules[f"local_nn.lins.{at}.weight"] = f"conv{at + 1}.weight : reshape({out}, {size})"
        rules[f"local_nn.lins.{at}.bias"] = f"conv{at + 1}.bias"
        rules[f"local_nn.norms.{at}"] = f"bn{at + 1}"
    points = sound(3, 3, 30)
    return Pair(
        PointNet(), target, mapped(target, rules), called(points), lambda net: net(points.transpose(1, 2))
    )


# -------------------------------------------- series: modules that have two names at once


class TemporalBlock(nn.Module):
    def __init__(self, size: int, out: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = normed(nn.Conv1d(size, out, 3, dilation=dilation))
        self.conv2 = normed(nn.Conv1d(out, out, 3, dilation=dilation))
        self.left = nn.ConstantPad1d((2 * dilation, 0), 0.0)
        self.net = nn.Sequential(self.left, self.conv1, nn.ReLU(), self.left, self.conv2, nn.ReLU())
        self.downsample = nn.Conv1d(size, out, 1) if size != out else None

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) + (x if self.downsample is None else self.downsample(x))).relu()


class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = ((5, 18, 1), (18, 18, 2), (18, 18, 4))
        self.tcn = nn.ModuleDict({"network": nn.Sequential(*(TemporalBlock(*each) for each in sizes))})
        self.linear = nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.tcn["network"](x)[:, :, -1])


class CausalConv(nn.Module):
    def __init__(self, size: int, out: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        conv = nn.Conv1d(size, out, 3, dilation=dilation)
        self.conv = nn.utils.parametrizations.weight_norm(conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (self.pad, 0)))


class DilatedBlock(nn.Module):
    def __init__(self, size: int, out: int, dilation: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv1d(size, out, 1) if size != out else nn.Identity()
        self.second, self.first = CausalConv(out, out, dilation), CausalConv(size, out, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()).relu() + self.shortcut(x)).relu()


class DilatedNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(DilatedBlock(5, 18, 1), DilatedBlock(18, 18, 2), DilatedBlock(18, 18, 4))
        self.head = nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(x)[:, :, -1])


@pair("tcn-paper-plain", family="tcn")
def _tcn() -> Pair:
    target = DilatedNet()
    at, own = "stack.*.", "tcn.network.*."
    rules = {"head": "linear", at + "shortcut": own + "downsample"}
    for ours, theirs in (("first", "conv1"), ("second", "conv2")):
        rules[f"{at}{ours}.conv.bias"] = f"{own}{theirs}.bias"
        rules[f"{at}{ours}.conv.parametrizations.weight.original0"] = f"{own}{theirs}.weight_g"
        rules[f"{at}{ours}.conv.parametrizations.weight.original1"] = f"{own}{theirs}.weight_v"
    series = sound(2, 5, 40)
    return Pair(TCN(), target, mapped(target, rules), called(series), called(series))


class PatchLayer(nn.Module):
    """Batch norms between two turns of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({f"W_{each}": nn.Linear(24, 24) for each in "QKV"})
        self.self_attn["to_out"] = nn.Sequential(nn.Linear(24, 24), nn.Dropout(0.0))
        self.norm_attn = nn.Sequential(nn.Identity(), nn.BatchNorm1d(24), nn.Identity())
        self.ff = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Dropout(0.0), nn.Linear(40, 24))
        self.norm_ffn = nn.Sequential(nn.Identity(), nn.BatchNorm1d(24), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        parts = self.self_attn
        y = parts["to_out"](attend(parts["W_Q"](x), parts["W_K"](x), parts["W_V"](x), 4))
        x = self.norm_attn((x + y).transpose(1, 2)).transpose(1, 2)
        return self.norm_ffn((x + self.ff(x)).transpose(1, 2)).transpose(1, 2)


class PatchBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_pos = nn.Parameter(torch.zeros(8, 24))
        self.W_P = nn.Linear(4, 24)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([PatchLayer() for _ in range(2)])})

    def forward(self, x: Tensor) -> Tensor:
        x = self.W_P(x) + self.W_pos
        layers: Any = self.encoder["layers"]
        for layer in layers:
            x = layer(x)
        return x


class PatchSeries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({
            "backbone": PatchBackbone(), "head": nn.ModuleDict({"linear": nn.Linear(192, 5)}),
        })  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        patches = x.transpose(1, 2).reshape(batch * channels, length // 4, 4)
        parts: Any = self.model
        found = parts["head"]["linear"](parts["backbone"](patches).flatten(1))
        return found.unflatten(0, (batch, channels)).transpose(1, 2)


@pair("patchtst-transformers-paper", family="patchtst")
def _patchtst() -> Pair:
    target = PatchSeries()
    at, own = "model.backbone.encoder.layers.*.", "model.encoder.layers.*."
    truth = mapped(target, {
        "model.backbone.W_pos": "model.encoder.positional_encoder.position_enc",
        "model.backbone.W_P": "model.encoder.embedder.input_embedding",
        "model.head.linear": "head.projection",
        at + "self_attn.W_Q": own + "self_attn.q_proj",
        at + "self_attn.W_K": own + "self_attn.k_proj",
        at + "self_attn.W_V": own + "self_attn.v_proj",
        at + "self_attn.to_out.0": own + "self_attn.out_proj",
        at + "norm_attn.1": own + "norm_sublayer1.batchnorm",
        at + "ff.0": own + "ff.0",
        at + "ff.3": own + "ff.3",
        at + "norm_ffn.1": own + "norm_sublayer3.batchnorm",
    })  # fmt: skip
    sizes: dict[str, Any] = {
        "num_input_channels": 3, "d_model": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "ffn_dim": 40, "context_length": 32, "patch_length": 4, "patch_stride": 4, "prediction_length": 5,
        "pre_norm": False, "scaling": None, "pooling_type": None, "do_mask_input": False, "loss": "mse",
    }  # fmt: skip
    series = sound(2, 32, 3)
    source = PatchTSTForPrediction(PatchTSTConfig(**sizes))
    return Pair(
        source, target, truth, lambda net: net(series).prediction_outputs, called(series),
        free=keys_of(truth, "W_K.bias"),
    )  # fmt: skip


# ------------------------------------------------------- tables: columns with embeddings


class TabTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.category_embed = nn.ModuleList([nn.Embedding(count, 16) for count in (5, 9, 12)])
        layer = nn.TransformerEncoderLayer(16, 2, 40, dropout=0.0, activation="gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(52, 30), nn.SELU(), nn.Linear(30, 2))

    def forward(self, kinds: Tensor, numbers: Tensor) -> Tensor:
        x = torch.stack([table(kinds[:, at]) for at, table in enumerate(self.category_embed)], 1)
        x = self.transformer(x).flatten(1)
        return self.mlp(torch.cat([x, self.norm(numbers)], 1))


class ColumnLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_normalization = nn.LayerNorm(16)
        self.W_q, self.W_k, self.W_v, self.W_out = (nn.Linear(16, 16) for _ in range(4))
        self.ffn_normalization = nn.LayerNorm(16)
        self.linear_first, self.linear_second = nn.Linear(16, 40), nn.Linear(40, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.W_out(attend(self.W_q(x), self.W_k(x), self.W_v(x), 2))
        x = self.attention_normalization(x + y)
        return self.ffn_normalization(x + self.linear_second(functional.gelu(self.linear_first(x))))


class Columns(nn.Module):
    """One table for all columns, one below another."""

    def __init__(self) -> None:
        super().__init__()
        self.numerical_normalization = nn.LayerNorm(4)
        self.category_embeddings = nn.Embedding(26, 16)
        self.blocks = nn.Sequential(*(ColumnLayer() for _ in range(2)))
        self.head_hidden, self.head_output = nn.Linear(52, 30), nn.Linear(30, 2)

    def forward(self, kinds: Tensor, numbers: Tensor) -> Tensor:
        x = self.blocks(self.category_embeddings(kinds + torch.tensor([0, 5, 14]))).flatten(1)
        x = torch.cat([x, self.numerical_normalization(numbers)], 1)
        return self.head_output(functional.selu(self.head_hidden(x)))


@pair("tabtransformer-torch-plain", family="tabular", transforms=True)
def _tabular() -> Pair:
    target = Columns()
    at, own = "blocks.*.", "transformer.layers.*."
    tables = " + ".join(f"category_embed.{index}.weight" for index in range(3))
    rules = {
        "numerical_normalization": "norm", "category_embeddings.weight": tables + " > cat(0, 1)",
        "head_hidden": "mlp.0", "head_output": "mlp.2", at + "attention_normalization": own + "norm1",
        at + "ffn_normalization": own + "norm2", at + "linear_first": own + "linear1",
        at + "linear_second": own + "linear2", at + "W_out": own + "self_attn.out_proj",
    }  # fmt: skip
    for index, each in enumerate("qkv"):
        for leaf in ("weight", "bias"):
            part = f" : take(0, {16 * index}, {16 * index + 16}, 1)"
            rules[f"{at}W_{each}.{leaf}"] = f"{own}self_attn.in_proj_{leaf}{part}"
    kinds, numbers = tokens(6, 3, 100) % torch.tensor([5, 9, 12]), sound(6, 4)
    truth = mapped(target, rules)
    return Pair(
        TabTransformer(), target, truth, called(kinds, numbers), called(kinds, numbers),
        free=keys_of(truth, "W_k.bias"),
    )  # fmt: skip


class DLRM(nn.Module):
    """Interactions of all pairs of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.emb_l = nn.ModuleList([nn.EmbeddingBag(count, 12, mode="sum") for count in (7, 10, 15)])
        self.bot_l = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU())
        self.top_l = nn.Sequential(nn.Linear(18, 20), nn.ReLU(), nn.Linear(20, 1), nn.Sigmoid())

    def forward(self, kinds: Tensor, numbers: Tensor) -> Tensor:
        dense = self.bot_l(numbers)
        all_of = torch.stack([dense, *(table(kinds[:, at, None]) for at, table in enumerate(self.emb_l))], 1)
        rows, columns = torch.tril_indices(4, 4, -1)
        pairs = (all_of @ all_of.transpose(1, 2))[:, rows, columns]
        return self.top_l(torch.cat([dense, pairs], 1))


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.over_arch = nn.ModuleDict({"hidden": nn.Linear(18, 20), "click": nn.Linear(20, 1)})
        self.sparse_arch = nn.ModuleDict({
            "site": nn.Embedding(7, 12), "advert": nn.Embedding(10, 12), "device": nn.Embedding(15, 12)
        })  # fmt: skip
        self.dense_arch = nn.ModuleDict({"hidden": nn.Linear(6, 20), "project": nn.Linear(20, 12)})

    def forward(self, kinds: Tensor, numbers: Tensor) -> Tensor:
        dense = self.dense_arch["project"](self.dense_arch["hidden"](numbers).relu()).relu()
        tables = (self.sparse_arch[each] for each in ("site", "advert", "device"))
        all_of = torch.stack([dense, *(table(kinds[:, at]) for at, table in enumerate(tables))], 1)
        rows, columns = torch.tril_indices(4, 4, -1)
        pairs = (all_of @ all_of.transpose(1, 2))[:, rows, columns]
        y = self.over_arch["hidden"](torch.cat([dense, pairs], 1)).relu()
        return self.over_arch["click"](y).sigmoid()


@pair("dlrm-paper-plain", family="dlrm")
def _dlrm() -> Pair:
    target = Ranker()
    truth = mapped(target, {
        "over_arch.hidden": "top_l.0", "over_arch.click": "top_l.2",
        "dense_arch.hidden": "bot_l.0", "dense_arch.project": "bot_l.2",
        "sparse_arch.site": "emb_l.0", "sparse_arch.advert": "emb_l.1", "sparse_arch.device": "emb_l.2",
    })  # fmt: skip
    kinds, numbers = tokens(6, 3, 100) % torch.tensor([7, 10, 15]), sound(6, 6)
    return Pair(DLRM(), target, truth, called(kinds, numbers), called(kinds, numbers))
