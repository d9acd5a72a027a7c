"""Kinds of colours that pictures may have: the values of `Sweep.colour`."""

from __future__ import annotations

from dataclasses import dataclass

FREE, GREY = "free", "grey"
"""The values of `plan.programs.Program.colour`: any colours, or r = g = b."""


@dataclass(frozen=True)
class Colour:
    """A kind of colours, and what it asks for."""

    name: str
    program: str = FREE
    """The colours that pictures have while they are optimised; for grey, all images become their luma."""
    keeps_chroma: bool = False
    """Whether a finished picture gets the chroma of its content."""
    moves_style: bool = False
    """Whether the colours of a style are first moved to those of the content."""

    @property
    def grey(self) -> bool:
        """Whether the network sees lumas alone."""
        return self.program == GREY

    @property
    def needs_content(self) -> bool:
        """Whether every cell needs a content image."""
        return self.keeps_chroma or self.moves_style


COLOURS = {
    row.name: row
    for row in (
        Colour("free"),
        Colour("luminance", program=GREY, keeps_chroma=True),
        Colour("match", moves_style=True),
        Colour("grey", program=GREY),
    )
}
"""The kinds by name; the first is the default."""
