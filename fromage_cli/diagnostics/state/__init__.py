"""What does the optimizer's state say: how far each layer moves, what rounding loses, and moments that cannot be?

    u = m^ / (sqrt(v^) + eps),    |m| <= C_t sqrt(v),    lost where RN(w (1 - eta lambda) - eta u) = w

The first is the update that the saved moments make, the second what every sequence of gradients obeys. It is all read
from the file, without a network. Source: Kingma, Ba, *Adam*, ICLR 2015; Cauchy and Schwarz for the bound.
"""
