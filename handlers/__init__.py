"""How a request reaches a model, per platform: the only code that reads the environment or starts anything.

Whatever the platform, this is the first line of ours that runs, so the clock of a cold start is read here.
"""

import model_cache.timeline as timeline  # noqa: F401
