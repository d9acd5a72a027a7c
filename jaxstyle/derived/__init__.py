"""Files that are derived from the chunks of a run: sheets, curves, animations, the page."""
