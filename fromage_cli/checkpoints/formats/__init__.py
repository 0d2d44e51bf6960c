"""The formats, recognised by content, and one reader for each."""
