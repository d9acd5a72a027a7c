"""The two ends of a command: flags and signals, errors of one line, progress. Needs no JAX."""
