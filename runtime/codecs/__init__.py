"""Bytes to arrays and back. Pure: numpy, the signature and the errors, nothing of transports or engines."""
