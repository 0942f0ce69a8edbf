"""A load tool for any MQTT server, and the check that what was acknowledged is in Kafka.

An independent peer: it speaks MQTT with a codec of its own and must never import from `proxy/`, or a mistake made in
both places would go unseen.
"""
