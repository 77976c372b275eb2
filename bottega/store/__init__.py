"""The store: what people said of samples, who they are, and the queue of what they see next; it knows no model."""
