"""`batchserve tune`: which settings are fastest for a model on this machine, by measurement."""
