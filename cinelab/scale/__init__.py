"""What makes a model large and fast: shards, sequence parallelism, compiled blocks, and what a
training costs."""
