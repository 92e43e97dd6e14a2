"""Scripts that produce the figures the README quotes; each says how to run it."""
