"""What modules say of how their weights are divided."""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from modelinspect.live.facts import module_facts


class Attention(nn.Module):
    """Numbers of heads among other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.n_head = 4
        self.num_key_value_heads = 2
        self.head_dim = 8
        self.dropout = 0.1
        self.layer_idx = 3
        self.has_heads = True
        self.heads_name = "x"


def test_heads_are_found_by_path() -> None:
    """Whole numbers with names of heads, by the module that holds them; nothing else."""
    net = nn.ModuleDict({"a": Attention(), "b": nn.Linear(2, 2)})
    assert module_facts(net) == {
        "a": {"num_heads": 4, "n_head": 4, "num_key_value_heads": 2, "head_dim": 8},
    }  # fmt: skip


def test_a_configuration_counts() -> None:
    """An object or a dict under ``config``; what the module says itself goes before it."""
    net = nn.Linear(2, 2)
    net.config = SimpleNamespace(num_attention_heads=12, n_head=1, hidden_size=48, vocab=5)  # type: ignore[assignment]
    net.n_head = 3  # type: ignore[assignment]
    assert module_facts(net)[""] == {"num_attention_heads": 12, "n_head": 3}
    net.config = {"n_kv_heads": 2}  # type: ignore[assignment]
    assert module_facts(net)[""] == {"n_kv_heads": 2, "n_head": 3}


def test_convolutions_and_attention_of_torch() -> None:
    """Torch's own modules say their groups and heads."""
    net = nn.Sequential(nn.Conv1d(4, 4, 1, groups=2), nn.MultiheadAttention(8, 2))
    facts = module_facts(net)
    assert facts["0"]["groups"] == 2
    assert facts["1"]["num_heads"] == 2
    assert facts["1"]["head_dim"] == 4
