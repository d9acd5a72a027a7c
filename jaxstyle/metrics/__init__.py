"""Scores of finished pictures, by measures that no picture is optimised for."""
