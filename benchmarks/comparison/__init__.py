"""Servers side by side: the same models, the same machine, in turn."""
