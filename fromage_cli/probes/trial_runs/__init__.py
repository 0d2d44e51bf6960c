"""Short real training runs from the checkpoint's weights or new ones."""
