"""Scripts of row P3, one a line; each runs tiny on a CPU as its own test."""
