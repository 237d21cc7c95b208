"""The page, as its browser gets it: no build step, nothing from elsewhere."""
