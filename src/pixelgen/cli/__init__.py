"""Command lines: the parser of training, what its arguments mean."""
