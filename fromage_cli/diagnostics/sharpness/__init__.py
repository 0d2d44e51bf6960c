"""Is my learning rate stable for this network's curvature?

    ratio = lambda_max(H) / threshold,    threshold = 2 / eta for plain gradient descent

H is the Hessian of the loss on the batch; momentum and Adam have thresholds of their own, Adam's for
P^(-1/2) H P^(-1/2).
Sources: Cohen et al., *Gradient descent on neural networks typically occurs at the edge of stability*, ICLR 2021;
Lewkowycz et al., *The large learning rate phase of deep learning*, 2020; Zhu et al., *Quadratic models for
understanding catapult dynamics*, ICLR 2024.
"""
