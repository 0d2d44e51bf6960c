import pytest
from torch import nn

from fromage_cli.checkpoints.optimizers.decay_rules import DECAY_RULES

SHAPES = {"wte.weight": (9, 4), "ln_1.weight": (4,), "ln_1.bias": (4,), "input_layernorm.weight": (4,), "gamma": (4,),
          "q_norm.weight": (2,), "relative_bias.table": (3, 2), "conv.weight": (4, 4, 1)}  # fmt: skip
"""Of tensors for which the rules differ."""


@pytest.mark.parametrize(
    ("rule", "undecayed"),
    [
        (0, {"ln_1.weight", "ln_1.bias", "input_layernorm.weight", "gamma", "q_norm.weight"}),
        (1, {"ln_1.weight", "ln_1.bias", "input_layernorm.weight", "q_norm.weight", "relative_bias.table"}),
        (2, {"ln_1.bias", "input_layernorm.weight", "q_norm.weight", "relative_bias.table"}),
        (3, {"ln_1.weight", "ln_1.bias", "input_layernorm.weight", "q_norm.weight", "relative_bias.table"}),
    ],
)
def test_what_each_rule_leaves_undecayed(rule: int, undecayed: set[str]) -> None:
    assert {name for name, shape in SHAPES.items() if not DECAY_RULES[rule](name, shape)} == undecayed


def test_the_trainers_own_rule() -> None:
    """With the norms of a transformer, by name and by class."""
    trainer = pytest.importorskip("transformers").Trainer
    model = nn.ModuleDict({"ln_f": nn.LayerNorm(4), "mlp": nn.Linear(4, 4), "emb": nn.Embedding(5, 4)})
    model["q_norm"] = nn.RMSNorm(4)
    decayed = set(trainer.get_decay_parameter_names(None, model))
    named = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert {name for name, shape in named.items() if DECAY_RULES[1](name, shape)} == decayed
