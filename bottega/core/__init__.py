"""Floor 1: the nouns and Protocols, errors, configuration, run folders, devices."""
