"""Following a training run: each new, complete checkpoint is diagnosed once, by `check` in a process of its own.

arrivals → what they hold → diagnosis → log; what is in the log is not done again.
"""
