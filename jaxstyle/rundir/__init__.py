"""A run on disk: locks, whole files, chunks, checkpoints, tables, and the same run again. Needs no JAX."""
