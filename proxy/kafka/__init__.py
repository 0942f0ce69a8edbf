"""Kafka: the gateway that the product writes through, and what reads back. MQTT is unknown here."""
