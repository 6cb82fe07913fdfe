"""`vitrail evaluate`: how good retrieval is, with photos whose labels are known."""
