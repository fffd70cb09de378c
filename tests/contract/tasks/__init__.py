"""The contract of a task store."""
