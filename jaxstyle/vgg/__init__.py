"""VGG19: the table of its layers, its convolutions and poolings, and the Flax module."""
