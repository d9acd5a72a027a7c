"""The computation of one picture: its losses, its optimizer, its start and its steps, without a batch axis.

Each loss term or optimizer is a file here, and a row in `tables` that names its functions.
"""
