"""Floor 3: tasks, the runner and scorecards."""
