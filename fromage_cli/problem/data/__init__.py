"""The batch that is measured."""
