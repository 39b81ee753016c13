"""How a request reaches a model, per platform: the only code that reads the environment or starts anything."""
