"""How well drawn pictures have what was learned: measures, the regions they look at, and the networks they ask."""
