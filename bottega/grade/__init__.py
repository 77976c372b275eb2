"""Floor 2: text in, numbers out; evaluations, rewards and judges share this code."""
