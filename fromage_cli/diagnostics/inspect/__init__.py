"""What is in this file?

Format, step, and of every tensor dtype, shape and magnitudes; which tensors are one, which hold the same bytes; the
optimizer saved beside them. Of several checkpoints of a network: which layers hold the same bytes in all of them.
No model is needed and no code from the file is run. With the spectrum:
stable rank ||A||_F^2 / ||A||_2^2 and condition number sigma_max / sigma_min of every matrix.
"""
