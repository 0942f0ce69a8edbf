"""Who is where: what the replicas know of each other and of every session, from Kafka alone."""
