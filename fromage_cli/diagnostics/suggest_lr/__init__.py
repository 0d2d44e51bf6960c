"""Which learning rate is safe for my optimizer, and which one should it train at?

    limit: the largest step along the next update with  max_t b_l(t) < cos theta_l  in every layer (Lemma 1);
           b_l(t) = ||g_l(W + t dW) - g_l(W)|| / ||g_l(W)||

how far the next update may go from this checkpoint. No local measure answers the other question: the recommended rate
comes from short training runs, or is the typical one. Sources: Bernstein, Vahdat, Yue, Liu, *On the distance between
two neural networks and the stability of learning*, NeurIPS 2020, Lemmas 1 and 2; McCandlish et al., *An empirical
model of large-batch training*, 2018.
"""
