"""What one picture goes through: its losses, its optimizer, its start and its steps, without a batch axis.

The functions of a loss term or of an optimizer are a file here and a row in `tables`, which names them.
"""
