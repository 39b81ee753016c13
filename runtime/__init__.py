"""What a model is and how it is called. Synchronous and thread-safe, except where a module says ASGI."""
