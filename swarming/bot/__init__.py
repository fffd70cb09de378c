"""The program on every machine of the fleet: ask for a task, run it, report it."""
