"""Which way should weight decay, dropout and label smoothing move, to lower the validation loss?

    d L_val(w_N) / d lambda through the next N real steps,   and   -<x, d^2 L_train / dw dlambda>,  C x = grad L_val

The first is what happens if it is changed now; the second is where training would end up. They may differ in sign.
Sources: Bae, Grosse, *Delta-STN*, NeurIPS 2020; Maclaurin, Duvenaud, Adams, ICML 2015; Engstrom et al., arXiv
2503.13751.
"""
