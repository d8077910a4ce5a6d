"""The autograd node over an engine: for eager and compiled calls, one loss or many, and a trace."""
