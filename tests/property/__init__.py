"""Random histories against small models."""
