"""The specification of a run: values, tables, settings, and the sweep that they come to. Needs no JAX."""
