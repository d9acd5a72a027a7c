"""The study of seeds: how much of a picture the seed decides."""
