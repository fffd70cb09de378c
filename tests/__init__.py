"""Tests of the isolate toolkit."""
