"""aelm."""
