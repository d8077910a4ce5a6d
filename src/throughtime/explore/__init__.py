"""A page that computes in the reader's browser: why the far name is harder, as sliders move."""
