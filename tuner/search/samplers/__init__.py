"""The samplers of a study file's [search] table, and what they share: by number, and away from what can't work."""
