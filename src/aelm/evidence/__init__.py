"""Whether the method does what it claims, measured: where A and B look, and what ranking is worth behind occluders."""
