"""Pickles, interpreted without running anything."""
