"""MQTT to Kafka, acknowledged only when Kafka has it."""

__version__ = "0.1.0"
