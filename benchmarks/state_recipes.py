"""The healthy runs of the study of `state`, and those whose resumption went wrong."""

from state_runs import Recipe

GPT95 = {"betas": (0.9, 0.95), "weight_decay": 0.1}
GPT999 = {"betas": (0.9, 0.999), "weight_decay": 0.01}
EPOCHS = (50, 100, 150, 200, 250, 300)
RESUMED = (75, 150, 151, 225, 300)

HEALTHY = [
    Recipe("sgd", "mlp", "sgd", 0.05, {"momentum": 0.9}),
    Recipe("sgd-nesterov", "cnn", "sgd", 0.05, {"momentum": 0.9, "nesterov": True}, schedule="cosine"),
    Recipe("sgd-decay", "cnn", "sgd", 0.05, {"momentum": 0.9, "weight_decay": 5e-4}, schedule="drops"),
    Recipe("sgd-dampening", "mlp", "sgd", 0.1, {"momentum": 0.9, "dampening": 0.5}, clip=1.0),
    Recipe("sgd-one-cycle", "cnn", "sgd", 0.1, {"momentum": 0.9}, schedule="one-cycle"),
    Recipe("sgd-epochs", "cnn", "sgd", 0.05, {"momentum": 0.9}, schedule="plain-cosine", epoch=50, saved=EPOCHS),
    Recipe("adamw-epochs", "mlp", "adamw", 2e-3, GPT999, schedule="drops", epoch=50, saved=EPOCHS),
    Recipe("sgd-resumed", "cnn", "sgd", 0.05, {"momentum": 0.9}, schedule="cosine", resumed=150, saved=RESUMED),
    Recipe("adam", "mlp", "adam", 2e-3),
    Recipe("adam-l2-foreach", "vit", "adam", 2e-3, {"weight_decay": 1e-3, "foreach": True}, schedule="linear"),
    Recipe("adam-amsgrad", "cnn", "adam", 2e-3, {"amsgrad": True}),
    Recipe("adam-one-cycle", "cnn", "adam", 5e-3, schedule="one-cycle"),
    Recipe("adam-one-cycle-fast", "mlp", "adam", 5e-3, schedule="one-cycle", length=45, saved=(1, 2, 15, 30, 44, 45)),
    Recipe("adam-one-cycle-short", "cnn", "adam", 5e-3, schedule="one-cycle", length=45, saved=(1, 2, 20, 30, 40, 45)),
    Recipe("adam-restarts", "mlp", "adam", 2e-3, schedule="restarts"),
    Recipe("adam-plateau", "mlp", "adam", 2e-2, schedule="plateau"),
    Recipe("adamw-95", "gpt", "adamw", 3e-3, GPT95, schedule="cosine", clip=1.0),
    Recipe("adamw-999", "gpt", "adamw", 3e-3, GPT999),
    Recipe("adamw-fused", "gpt", "adamw", 3e-3, {**GPT95, "fused": True}, schedule="plain-cosine"),
    Recipe("adamw-amsgrad", "vit", "adamw", 2e-3, {**GPT999, "amsgrad": True}, schedule="cosine"),
    Recipe("adamw-accumulated", "gpt", "adamw", 3e-3, GPT95, accumulated=4, saved=(1, 25, 50, 75, 100), length=100),
    Recipe("adamw-resumed", "gpt", "adamw", 3e-3, GPT999, schedule="cosine", resumed=150, saved=RESUMED),
    Recipe(
        "adamw-longer", "gpt", "adamw", 3e-3, GPT95, schedule="cosine", resumed=150, resumption="longer", saved=RESUMED
    ),
    Recipe("adamw-cosine-twice", "vit", "adamw", 2e-3, GPT95, schedule="short-cosine"),
    Recipe("adamw-rows-unseen", "gpt", "adamw", 3e-3, GPT999, {"vocabulary": 300}, schedule="cosine"),
    Recipe("adamw-frozen", "vit", "adamw", 2e-3, GPT999, {"frozen": ("patches", "blocks.0")}),
    Recipe("adamw-averaged", "mlp", "adamw", 2e-3, GPT999, special="averaged"),
    Recipe("adamw-layer-rates", "gpt", "adamw", 3e-3, GPT95, schedule="cosine", special="layer-rates"),
    Recipe("nadam", "mlp", "nadam", 2e-3),
    Recipe("radam", "mlp", "radam", 2e-3, {"weight_decay": 1e-3, "decoupled_weight_decay": True}),
    Recipe("lamb", "gpt", "lamb", 1e-2, {"weight_decay": 0.01}, schedule="cosine"),
    Recipe("sparse-adam", "gpt", "sparse-adam", 1e-2),
    Recipe("lion", "gpt", "lion", 3e-4, {"weight_decay": 0.1}, schedule="cosine"),
    Recipe("lion-resumed", "mlp", "lion", 3e-4, {"betas": (0.95, 0.98)}, resumed=150, saved=RESUMED),
    Recipe("adamw-bf16", "gpt", "adamw", 3e-3, GPT95, schedule="cosine", precision="bf16"),
    Recipe("adamw-bf16-999", "gpt", "adamw", 1e-2, GPT999, precision="bf16", resumed=150, saved=RESUMED),
    Recipe("sgd-bf16", "mlp", "sgd", 0.2, {"momentum": 0.9}, precision="bf16"),
    Recipe("lion-bf16", "gpt", "lion", 1e-3, {"weight_decay": 0.1}, precision="bf16"),
    Recipe("adamw-bf16-autocast", "gpt", "adamw", 3e-3, GPT95, schedule="cosine", precision="bf16-autocast", clip=1.0),
    Recipe("adamw-fp16-scaler", "gpt", "adamw", 3e-3, GPT999, schedule="cosine", precision="fp16-scaler", clip=1.0),
    Recipe("sgd-fp16-scaler", "mlp", "sgd", 0.05, {"momentum": 0.9}, precision="fp16-scaler"),
    Recipe("adam-fp16", "mlp", "adam", 1e-3, {"eps": 1e-4}, schedule="plain-cosine", precision="fp16"),
    Recipe("adamw-float64", "vit", "adamw", 2e-3, GPT999, precision="float64"),
    Recipe("adamw-skipped-blocks", "mlp", "adamw", 2e-3, GPT999, {"depth": 5}, special="skipped-blocks"),
    Recipe("adamw-thawed", "mlp", "adamw", 2e-3, GPT999, special="thawed"),
]
