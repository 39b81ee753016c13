"""What carries Decant to its platforms. Nothing here is imported by the product; each script stands alone."""
