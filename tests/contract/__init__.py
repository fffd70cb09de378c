"""One body for every backend of a protocol."""
