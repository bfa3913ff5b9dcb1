"""Passes that choose the spelling that is fastest on a target."""
