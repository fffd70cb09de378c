"""Damage action × place × next step."""
