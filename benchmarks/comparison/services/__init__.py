"""What runs in the peers' processes: the least code that their manuals ask for."""
