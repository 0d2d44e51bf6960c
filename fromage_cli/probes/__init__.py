"""Measurements on a Problem that several diagnostics share."""
