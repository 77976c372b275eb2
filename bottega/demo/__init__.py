"""Floor 6: the offline journey and the generator of its world."""
