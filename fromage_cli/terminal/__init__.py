"""The terminal edge: shared options, configuration, tables, progress and output formats; the only place that prints."""
