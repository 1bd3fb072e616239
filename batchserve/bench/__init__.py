"""`batchserve bench`: what a server does under a load, as its clients see it."""
