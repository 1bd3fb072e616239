"""From single items to batches: a bucket per shape, a policy that decides, a loop that acts."""
