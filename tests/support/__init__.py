"""What several test files share: real processes, a real Kafka. No test double of the product itself lives here."""
