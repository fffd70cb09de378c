"""Damage action x place x next step."""
