"""What a command says and hears: flags, errors of one line, signals, progress. Needs no JAX."""
