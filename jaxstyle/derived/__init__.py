"""What is derived from the chunks of a run: sheets, curves, animations, the page."""
