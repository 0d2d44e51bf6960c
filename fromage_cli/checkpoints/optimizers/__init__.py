"""The optimizer's state and settings, in every form in which they are saved."""
