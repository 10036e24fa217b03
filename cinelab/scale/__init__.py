"""What makes a model large and fast: shards, sequence parallelism, compiled blocks, cost of a training."""
