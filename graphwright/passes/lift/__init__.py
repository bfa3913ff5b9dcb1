"""Passes that give each meaning one standard operator; independent of the target."""
