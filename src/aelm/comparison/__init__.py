"""Finished runs as tables: found on disk, sorted into arms, paired by seed, summed up with their errors."""
