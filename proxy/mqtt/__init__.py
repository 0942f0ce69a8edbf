"""The wire: bytes to packets and back. No state of a connection, no clock, no socket lives here."""
