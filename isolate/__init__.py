"""Turn a tree of files into one hash, and one hash back into the tree."""

__version__ = "0.1.0"
