"""How far apart are two networks, layer by layer and as functions?

    delta_l = ||W~_l - W_l|| / ||W_l||,    prod_l (1 + delta_l) - 1,
    ||f~(x) - f(x)|| / ||f(x)|| <= (beta kappa^2 / alpha)^L [prod_l (1 + delta_l) - 1]

Source: Bernstein, Vahdat, Yue, Liu, *On the distance between two neural networks and the stability of learning*,
NeurIPS 2020, Theorem 1.
"""
