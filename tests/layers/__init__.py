"""The core: cells, sweeps, layers, flow and diagnosis, against oracles that share no code."""
