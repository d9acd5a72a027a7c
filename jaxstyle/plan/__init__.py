"""From a sweep to cells, programs and chunks, and what they cost. Needs no JAX."""
