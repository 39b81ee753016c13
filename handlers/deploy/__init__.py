"""Files for platforms, from one short description of what to serve: ``decant deploy render``.

No part of a server: nothing of this is imported by one.
"""
