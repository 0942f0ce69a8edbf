"""One connection's MQTT session, sans-IO: bytes and the time go in, events and bytes come out."""
