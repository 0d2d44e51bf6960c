"""Which layers grow along a run, how fast, and when does it hurt?

A layer that does not care for the scale of its weights has a gradient orthogonal to them. An update of relative size
eta then makes its norm grow: ||W_t|| = ||W_0|| (1 + eta^2)^(t/2). Source: Bernstein, Vahdat, Yue, Liu,
*On the distance between two neural networks and the stability of learning*, NeurIPS 2020, section 5 and Fig. 2.
"""
