"""How the validation loss responds to hyperparameters of training: unrolled steps, and the implicit best response."""
