"""Several nodes on one broker."""
