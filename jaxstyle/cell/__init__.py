"""One picture and its optimisation, without a batch axis."""
