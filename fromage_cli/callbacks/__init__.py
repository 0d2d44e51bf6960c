"""Callbacks for trainers: they write a bundle every so many steps, and change nothing of the run."""
