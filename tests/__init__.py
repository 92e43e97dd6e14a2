"""Tests of svdkit; each file mirrors one module."""
