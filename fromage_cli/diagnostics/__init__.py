"""One folder, one question; COMMANDS is the table of contents, in the order of `--help`."""

COMMANDS = {
    "check": "Is my run healthy: go on, look at this, or stop?",
    "inspect": "What is in this file, and is anything wrong with it: NaN, Inf, tensors of zeros, code that would run?",
    "breakdown": "How far may a step go before a layer's gradient no longer holds?",
    "suggest-lr": "How far may the next step go, and which learning rate should I train at?",
    "norms": "Which layers grow along a run, how fast, and when does it hurt?",
    "intrinsic-lr": "How long do norms take to settle under weight decay, and where is each layer now?",
    "sharpness": "Is my learning rate stable for this network's curvature?",
    "hypergrad": "Which way should weight decay, dropout and label smoothing move?",
    "state": "What does the optimizer's state say: how far each layer moves, and moments that cannot be?",
    "distance": "How far apart are two networks: each layer's weights and, with --model and --batch, the outputs?",
}
"""The commands with the first line of their help, which the program shows without importing them."""

EXAMPLES = {
    "check": (
        ("check run/", "the files of a run alone"),
        ("check run/ --model net.py:build --batch data.npz", "with the network and a batch"),
        ("check run/ --json -o check.json || exit", "a gate in a job script"),
    ),
    "inspect": (
        ("inspect model.safetensors", "what is in it, and whether something is wrong"),
        ("inspect run/step-*.pt --json", "the same of several files, for a script"),
        ("inspect --safety download.pt", "what torch.load would run in a file from elsewhere"),
    ),
    "breakdown": (
        ("breakdown run/", "everything is found beside the run's last checkpoint"),
        ("breakdown model.pt --model net.py:build --batch data.npz", "your own network and data"),
        ("breakdown llama/ --model hf --batch x.bin --seq-len 512", "a Hugging Face model"),
    ),
    "suggest-lr": (
        ("suggest-lr run/ --optimizer adamw --lr 3e-4", "how far a step may go, and a rate to train at"),
        ("suggest-lr model.pt --model net.py:build --batch data.npz", "your own network and data"),
        ("suggest-lr run/ --probe none", "the step alone, without short training runs: much faster"),
        ("LR=$(fromage-diag suggest-lr run/ --value recommended) || exit", "the rate alone, in a job script"),
    ),
    "norms": (
        ("norms run/", "all checkpoints of a run"),
        ("norms run/ --model net.py:build --batch data.npz", "which layers are scale-invariant, too"),
        ("find run -name '*.pt' | fromage-diag norms - --fail-on warn", "a list from standard input"),
    ),
    "intrinsic-lr": (
        ("intrinsic-lr run/", "rate and weight decay as the optimizer's state has them"),
        ("intrinsic-lr run/ --optimizer adamw --lr 3e-4 --weight-decay 0.1", "with settings of your own"),
        ("intrinsic-lr run/ --drop 10", "what dividing the rate by 10 would do"),
    ),
    "sharpness": (
        ("sharpness run/ --optimizer sgd --lr 0.1", "is 0.1 stable here?"),
        ("sharpness model.pt --model net.py:build --batch data.npz --top 3", "three eigenvalues of the Hessian"),
    ),
    "hypergrad": (
        ("hypergrad run/ --val-batch val.npz", "through the next 50 steps of the saved optimizer"),
        ("hypergrad run/ --val-batch val.npz --method unroll:200", "further ahead"),
        ("hypergrad run/ --val-batch val.npz --loss my.py:f --hyper l1=0.01", "a number of your own loss"),
    ),
    "state": (
        ("state run/", "of the last checkpoint of a run"),
        ("state run/ --all -v", "every tensor and group, and what the columns mean"),
        ("state run/ --json --fail-on warn", "a gate in a job script"),
    ),
    "distance": (
        ("distance base.safetensors tuned.safetensors", "how far each layer moved"),
        ("distance a.pt b.pt --model net.py:build --batch data.npz", "and how far the outputs did"),
    ),
}
"""Command lines for the end of each command's help, with what they are for."""

SYMPTOMS = (
    ("is my run healthy?", "check RUN", "Stop, or Look at this"),
    ("loss flat from the start", "breakdown CKPT", "layers without a gradient"),
    ("loss jumps", "sharpness CKPT", "a ratio above 1"),
    ("NaN", "inspect CKPT…", "tensors with NaN or Inf"),
    ("worse after resuming", "inspect CKPT", "no optimizer state in it"),
    ("updates seem lost", "state CKPT", "a share lost to rounding"),
    ("fine-tuning does nothing", "distance BASE TUNED", "distances near 0"),
    ("one layer out of line", "norms RUN", "one grows, the others do not"),
    ("slower after a new rate", "intrinsic-lr RUN", "many steps to settle"),
    ("which learning rate", "suggest-lr CKPT", "a rate far from yours"),
)
"""What people see in training, the command that looks for it, and what a bad answer looks like."""

NOT_IN_A_CHECKPOINT = "No checkpoint shows wrong labels, or test data that leaked into training."
