"""Programs on devices: the only place that compiles, batches, shards and donates."""
