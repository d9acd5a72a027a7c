"""Images and weights, from files to arrays and back. Needs no JAX."""
