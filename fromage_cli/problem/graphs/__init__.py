"""Networks and losses as data: graphs over a fixed list of operators, written by torch.export and run by us."""
