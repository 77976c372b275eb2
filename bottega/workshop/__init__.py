"""Floor 5: recipes, the only wiring, stages, reports."""
