"""Synthetic pedestrians: people that are drawn, not downloaded, and know the truth about themselves."""
