"""`vitrail plan`: what a number of records takes, before there is a cluster. docs/plan.md says how well it is met."""
