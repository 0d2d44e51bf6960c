"""The runs of the study of early warnings: sick ones of eight kinds that go wrong, sick ones that do not, healthy ones.

Each recipe is trained with several seeds; a sick run's twin has the same seed. Rules and limits were chosen with the
runs of seeds 1 to 3 in sight. Those of seeds 4 to 6 were trained and judged afterwards. The networks and most of the
faults are those of run_study_recipes.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from run_study_recipes import ADAM_BETAS, BETAS, DECAY, DEEP, POST, WARM, WARM_COSINE
from run_study_training import Recipe

THREE, TWO = (1, 2, 3), (1, 2)
CHOSEN_ON = 3
"""Seeds up to this one were in sight when rules and limits were chosen."""
STEPS, CHECKPOINTS = 360, 10
RISING = "warm-up 100 %"
SCALED = "growth by 10⁵ from 30 %"
"""Of the loss: a change of the gradients' scale, which Adam does not feel where its second moment follows."""
FOUR = {"depth": 4}
BODY = {"frozen": ["patches", "position", "blocks.0", "blocks.1"]}
HE = "He's initialisation"


def text(name: str, optimizer: str, rate: float, **others: object) -> Recipe:
    """Return a run of a GPT on characters."""
    return Recipe(name, "gpt", "text", optimizer, rate, batch_size=16, **others)  # type: ignore[arg-type]


def mnist(name: str, network: str, optimizer: str, rate: float, **others: object) -> Recipe:
    """Return a run on MNIST."""
    return Recipe(name, network, "mnist", optimizer, rate, **{"batch_size": 64} | others)  # type: ignore[arg-type]


def cifar(name: str, optimizer: str, rate: float, **others: object) -> Recipe:
    """Return a run of a convolutional network on CIFAR-10."""
    return Recipe(name, "cnn", "cifar", optimizer, rate, **{"batch_size": 64} | others)  # type: ignore[arg-type]


def seeded(recipes: Iterable[tuple[Recipe, Sequence[int]]]) -> list[Recipe]:
    """Return each recipe once for each of its seeds and of as many new ones, with the twin and base of the same."""
    return [
        replace(
            recipe,
            name=f"{recipe.name}-{seed}",
            twin=recipe.twin and f"{recipe.twin}-{seed}",
            base=recipe.base and f"{recipe.base}-{seed}",
            seed=seed,
            steps=STEPS,
            checkpoints=CHECKPOINTS,
        )
        for recipe, seeds in recipes
        for seed in (*seeds, *(CHOSEN_ON + seed for seed in seeds))
    ]


HEALTHY = seeded(
    [
        (text("gpt", "adamw", 4e-3, settings=BETAS, schedule=WARM), THREE),
        (text("gpt-usual-betas", "adamw", 8e-3, settings=ADAM_BETAS, schedule=WARM), TWO),
        (text("gpt-warming", "adamw", 8e-3, settings=BETAS, schedule="warm-up 200 %", odd="still warming up"), [1]),
        (text("gpt-long-warm-up", "adamw", 8e-3, settings=BETAS, schedule="warm-up 50 %", odd="long warm-up"), [2]),
        (text("gpt-cosine", "adamw", 6e-3, settings=BETAS, schedule=WARM_COSINE, odd="the cosine's end"), [1]),
        (text("gpt-restart", "adamw", 6e-3, settings=BETAS, schedule="cosine twice", odd="the rate restarts"), [2]),
        (text("gpt-high-rate", "adamw", 1.2e-2, settings=BETAS, schedule=WARM, odd="3 × the usual rate"), [1]),
        (text("gpt-lion", "lion", 1e-3, settings={"weight_decay": 0.1}, schedule=WARM, odd="signs only"), [2]),
        (text("gpt-depth-4", "adam", 4e-3, arguments=FOUR, schedule="warm-up 25 %"), [1]),
        (
            text(
                "gpt-qk-norm",
                "adam",
                1.2e-2,
                arguments=FOUR | {"qk_norm": True},
                schedule="warm-up 25 %",
                odd="3 × the usual rate, with QK-norm",
            ),
            [2],
        ),
        (
            text(
                "gpt-large",
                "adamw",
                1e-3,
                arguments={"width": 128, "depth": 4},
                settings=BETAS,
                schedule=WARM_COSINE,
                odd="large",
            ),
            [2],
        ),
        (text("post-norm", "adam", 1.5e-2, arguments=POST, schedule="warm-up 25 %"), THREE),
        (mnist("mlp", "mlp", "momentum", 0.05), THREE),
        (mnist("mlp-adam", "mlp", "adam", 2e-3), THREE),
        (
            mnist(
                "mlp-scaled",
                "mlp",
                "adam",
                1e-2,
                settings={"betas": (0.9, 0.95)},
                weighting=SCALED,
                odd="the scale of the loss grows",
            ),
            THREE,
        ),
        (mnist("mlp-sgd", "mlp", "sgd", 0.3), [2]),
        (mnist("mlp-large-batch", "mlp", "momentum", 0.1, batch_size=1024, odd="a large batch"), [1]),
        (mnist("deep-mlp", "mlp", "adam", 1e-3, arguments=DEEP, change=HE), THREE),
        (mnist("resmlp", "resmlp", "adamw", 3e-3, settings=BETAS), [1]),
        (
            mnist(
                "resmlp-layer-scale",
                "resmlp",
                "adamw",
                3e-3,
                arguments={"scale": 1e-6},
                settings=BETAS,
                odd="LayerScale begins at 1e-6",
            ),
            [2],
        ),
        (cifar("cnn", "momentum", 0.1, settings=DECAY, schedule="cosine"), THREE),
        (cifar("cnn-adam", "adam", 5e-3), [1]),
        (cifar("cnn-bf16", "momentum", 0.1, precision="bfloat16", odd="bf16 weights, trained as well"), [2]),
        (cifar("cnn-large-batch", "momentum", 0.2, settings=DECAY, batch_size=512, odd="a large batch"), [1]),
        (cifar("cnn-lars", "lars", 0.05, settings={"weight_decay": 1e-2}, odd="relative steps"), [2]),
        (
            cifar(
                "cnn-large",
                "momentum",
                0.1,
                arguments={"width": 96},
                settings=DECAY,
                schedule="cosine",
                batch_size=32,
                odd="large",
            ),
            [1],
        ),
        (mnist("vit", "vit", "adamw", 3e-3, settings=BETAS, schedule=WARM_COSINE), TWO),
        (mnist("vit-zero-head", "vit", "adam", 3e-3, change="zero head", odd="the head begins at zero"), [2]),
        (
            mnist("vit-fine-tuned", "vit", "adamw", 2e-3, settings=BETAS, base="vit", turned=True, odd="fine-tuning"),
            TWO,
        ),
        (
            mnist(
                "vit-frozen",
                "vit",
                "adamw",
                3e-3,
                arguments=BODY,
                settings=BETAS,
                base="vit",
                turned=True,
                odd="fine-tuning with frozen layers",
            ),
            TWO,
        ),
    ]
)

TWINS = seeded(
    [
        (text("gpt-depth-4", "adam", 4e-3, arguments=FOUR, schedule="warm-up 25 %"), [2, 3]),
        (mnist("resmlp-slow", "resmlp", "adamw", 5e-4, settings=BETAS, schedule=WARM_COSINE), THREE),
    ]
)
"""Runs whose losses alone are needed: more seeds of a costly one, and one whose rate is lower than trains best."""

GOES_WRONG = seeded(
    [
        (
            text("gpt-rate-rises", "adamw", 0.3, settings=BETAS, schedule=RISING, kind="rate too high", twin="gpt"),
            THREE,
        ),
        (mnist("mlp-rate-rises", "mlp", "momentum", 0.6, schedule=RISING, kind="rate too high", twin="mlp"), THREE),
        (cifar("cnn-rate-high", "momentum", 3.0, settings=DECAY, kind="rate too high", twin="cnn"), THREE),
        (
            text(
                "gpt-jump",
                "adamw",
                4e-3,
                settings=BETAS,
                schedule="jump × 30 at 40 %",
                kind="the rate jumps",
                twin="gpt",
                sick_from=0.4,
            ),
            THREE,
        ),
        (
            mnist(
                "mlp-jump",
                "mlp",
                "momentum",
                0.05,
                schedule="jump × 10 at 40 %",
                kind="the rate jumps",
                twin="mlp",
                sick_from=0.4,
            ),
            THREE,
        ),
        (text("post-norm-cold", "adam", 1.5e-2, arguments=POST, kind="no warm-up", twin="post-norm"), THREE),
        (
            cifar("cnn-lars-grows", "lars", 0.25, precision="bfloat16", kind="growth in bf16 weights", twin="cnn"),
            THREE,
        ),
        (
            mnist(
                "deep-mlp-explodes",
                "mlp",
                "momentum",
                0.06,
                arguments=DEEP,
                schedule="warm-up 50 %",
                change=HE,
                kind="explosion in depth",
                twin="deep-mlp",
            ),
            THREE,
        ),
        (
            mnist(
                "mlp-stale-moment",
                "mlp",
                "adam",
                1.5e-2,
                settings={"betas": (0.9, 0.9999)},
                weighting=SCALED,
                kind="stale second moment",
                twin="mlp-scaled",
                sick_from=0.3,
            ),
            THREE,
        ),
        (
            text(
                "gpt-logits-grow",
                "adam",
                0.08,
                arguments=FOUR,
                schedule="warm-up 25 %",
                kind="attention logits grow",
                twin="gpt-depth-4",
            ),
            THREE,
        ),
        (
            mnist(
                "resmlp-bf16",
                "resmlp",
                "adamw",
                5e-4,
                settings=BETAS,
                schedule=WARM_COSINE,
                precision="bfloat16",
                kind="updates lost in bf16",
                twin="resmlp-slow",
            ),
            THREE,
        ),
    ]
)

STAYS = seeded(
    [
        (
            text(
                "gpt-left-out",
                "adamw",
                4e-3,
                settings=BETAS,
                schedule=WARM,
                left_out=("blocks.1",),
                kind="a layer missing from the optimizer",
                twin="gpt",
            ),
            TWO,
        ),
        (
            mnist(
                "mlp-left-out",
                "mlp",
                "adam",
                2e-3,
                left_out=("1.",),
                kind="a layer missing from the optimizer",
                twin="mlp-adam",
            ),
            THREE,
        ),
        (
            text(
                "gpt-layer-large",
                "adamw",
                4e-3,
                settings=BETAS,
                schedule=WARM,
                change="attention's input × 10",
                kind="one layer begins 10 × too large",
                twin="gpt",
            ),
            TWO,
        ),
        (
            mnist(
                "deep-mlp-layer-large",
                "mlp",
                "adam",
                1e-3,
                arguments=DEEP,
                change="He's, one matrix × 10",
                kind="one layer begins 10 × too large",
                twin="deep-mlp",
            ),
            THREE,
        ),
        (cifar("cnn-no-decay", "momentum", 2.0, kind="norms grow without decay", twin="cnn"), THREE),
        (
            text(
                "gpt-decay-strong",
                "adamw",
                4e-3,
                settings=BETAS | {"weight_decay": 10.0},
                schedule=WARM,
                kind="decay too strong",
                twin="gpt",
            ),
            TWO,
        ),
        (
            cifar(
                "cnn-decay-strong",
                "momentum",
                0.1,
                settings={"weight_decay": 0.05},
                schedule="cosine",
                kind="decay too strong",
                twin="cnn",
            ),
            THREE,
        ),
        (
            text(
                "gpt-forgets",
                "adamw",
                8e-3,
                settings=ADAM_BETAS,
                schedule=WARM,
                forget=True,
                kind="moments lost",
                twin="gpt-usual-betas",
                sick_from=0.5,
            ),
            TWO,
        ),
        (
            text(
                "post-norm-forgets",
                "adam",
                1.5e-2,
                arguments=POST,
                schedule="warm-up 25 %",
                forget=True,
                kind="moments lost",
                twin="post-norm",
                sick_from=0.5,
            ),
            TWO,
        ),
        (
            mnist("mlp-dead", "mlp", "adam", 2e-3, change="15 of 16 units dead", kind="dead units", twin="mlp-adam"),
            THREE,
        ),
        (
            cifar(
                "cnn-dead",
                "momentum",
                0.1,
                settings=DECAY,
                schedule="cosine",
                change="15 of 16 units dead",
                kind="dead units",
                twin="cnn",
            ),
            THREE,
        ),
        (
            cifar(
                "cnn-stale",
                "momentum",
                0.1,
                arguments={"statistics": 1e-4},
                settings=DECAY,
                schedule="cosine",
                kind="stale statistics",
                twin="cnn",
            ),
            THREE,
        ),
        (
            mnist(
                "vit-fine-tuned-high",
                "vit",
                "adamw",
                5e-2,
                settings=BETAS,
                base="vit",
                turned=True,
                kind="fine-tuning at 25 × the rate",
                twin="vit-fine-tuned",
            ),
            TWO,
        ),
        (
            mnist(
                "vit-frozen-high",
                "vit",
                "adamw",
                7.5e-2,
                arguments=BODY,
                settings=BETAS,
                base="vit",
                turned=True,
                kind="fine-tuning at 25 × the rate",
                twin="vit-frozen",
            ),
            TWO,
        ),
    ]
)

RECIPES = [*HEALTHY, *TWINS, *GOES_WRONG, *STAYS]
JUDGED = [*HEALTHY, *GOES_WRONG, *STAYS]
