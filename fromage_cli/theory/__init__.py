"""The papers' formulas and textbook numerics: no files, no printing, no options."""
