"""What the product does, one use case per file, each to be read from top to bottom."""
