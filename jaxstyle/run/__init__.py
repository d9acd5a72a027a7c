"""A run from start to end, on this machine or many, and a single picture."""
