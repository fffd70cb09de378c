"""Benchmarks: what the product is measured by."""
