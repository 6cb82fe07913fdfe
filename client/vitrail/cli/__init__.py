"""The command `vitrail`."""
