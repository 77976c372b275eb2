"""Floor 2: sources, formats, chat templates and masks, splits, order and packs."""
