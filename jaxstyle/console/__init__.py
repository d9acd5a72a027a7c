"""The two ends of a command: its flags and signals, its errors of one line and its progress. Needs no JAX."""
