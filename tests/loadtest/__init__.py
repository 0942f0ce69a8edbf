"""Tests of the load tool: its parts alone, against a server made for it, and against mosquitto."""
