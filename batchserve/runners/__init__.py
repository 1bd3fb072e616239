"""Where the forward pass happens; the batcher cannot tell one place from another."""
