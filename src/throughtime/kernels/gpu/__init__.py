"""The sweeps on a GPU, in Triton."""
