"""The built-in model's weights, in the hub's layout; README.md beside this file is its card."""
