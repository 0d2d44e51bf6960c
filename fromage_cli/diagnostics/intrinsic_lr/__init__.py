"""How long do norms take to settle under weight decay, and where is each layer now?

    lambda_e = eta wd,    eta_e = eta / ||W||^2,    d gamma / dt = -4 lambda_e gamma + 2 E||g~||^2,  gamma = eta_e^-2

for SGD; AdamW, Lion and LARS have formulas of their own (theory/equilibrium.py).
Sources: Li, Lyu, Arora, *Reconciling modern deep learning with traditional optimization analyses: the intrinsic
learning rate*, NeurIPS 2020; Kosson, Messmer, Jaggi, *Rotational equilibrium*, ICML 2024.
"""
