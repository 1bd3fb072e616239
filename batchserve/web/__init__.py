"""HTTP: reading requests, answering them, and telling the operator about it."""
