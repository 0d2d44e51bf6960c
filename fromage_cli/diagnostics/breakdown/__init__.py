"""How fast does each layer's gradient break down when all layers move by a relative step eta?

    b_l(eta) = ||g_l(W + dW) - g_l(W)|| / ||g_l(W)||,    ||dW_l|| = eta ||W_l||

Descent is certain while the running maximum of b_l stays below cos theta_l in every layer (Lemma 1); deep relative
trust predicts b_l <= prod_k (1 + delta_k) - 1. Source: Bernstein, Vahdat, Yue, Liu, *On the distance between two
neural networks and the stability of learning*, NeurIPS 2020, Lemma 1 and Fig. 1.
"""
