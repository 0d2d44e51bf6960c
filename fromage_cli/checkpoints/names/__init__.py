"""Names: of tensors, of files, of the steps of a run."""
