"""Measuring: what a clip shows; later what it costs."""
