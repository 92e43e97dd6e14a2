"""How svdkit's built-in micro model was trained. Not imported by the package."""
