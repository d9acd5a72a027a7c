"""The two ends of a command: flags, signals, errors of one line, progress. Needs no JAX."""
