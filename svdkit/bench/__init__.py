"""Measuring: what a clip costs and what it shows, kept as records and compared with statistics."""
