"""What a run is asked for: values, tables, settings, and the sweep that they come to. Needs no JAX."""
