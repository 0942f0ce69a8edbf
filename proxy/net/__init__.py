"""Sockets: bytes between the kernel and a session. What the bytes mean is decided elsewhere."""
