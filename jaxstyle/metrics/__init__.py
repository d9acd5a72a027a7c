"""Scores of finished pictures, by measures that no picture is optimised for. Needs no JAX."""
