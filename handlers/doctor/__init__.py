"""What is wrong in the place where Decant runs, as ``decant doctor`` tells it.

Checks need nothing of what they check, end in time, and write nothing but probe files that they remove.
"""
