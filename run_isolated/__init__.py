"""Run one command in a tree fetched by its hash, and upload what it leaves behind."""
