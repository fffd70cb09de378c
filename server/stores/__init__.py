"""Durable backends of the stores that the toolkit defines as protocols."""
