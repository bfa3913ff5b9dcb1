"""Passes that change how much work is done; independent of the target."""
