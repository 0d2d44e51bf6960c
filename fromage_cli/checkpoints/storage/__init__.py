"""Where bytes lie: files, parts of files, URLs, the places of tensors in them."""
