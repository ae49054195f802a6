"""Training sets: what a folder holds, shards made of it, batches drawn from them."""
