"""What the image's build does, run by ``python -m infra.image`` with the base image's own Python.

Needs nothing but the standard library, and is itself in no image. Each stage of the Dockerfile lays out one tree that
becomes a layer: the base's system as far as it is needed, the libraries, the product. The same input gives the same
bytes: no tree holds a time, a random number or an order of its own.
"""
