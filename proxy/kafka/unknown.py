"""Records for topics that Kafka has not said anything of yet, or that it does not have: they wait, within bounds.

A rule may make the name of a Kafka topic from what a device sends, so a name may be anything and there may be many.
"""

import asyncio
from collections.abc import Iterable

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.kafka.batches import Entry, PartitionQueue
from proxy.kafka.gateway import Recipient


class UnknownTopics:
    """The topics that are not known and have records waiting, which together may be so many bytes, or one record."""

    def __init__(self, bytes_max: int) -> None:
        #: Set while there is something to ask Kafka.
        self.wanted = asyncio.Event()
        self._queues: dict[str, PartitionQueue] = {}
        #: Topics that cannot be written to for the time being, and why.
        self._denied: dict[str, str] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._queues)

    def __contains__(self, topic: str) -> bool:
        return topic in self._queues

    @property
    def names(self) -> list[str]:
        return list(self._queues)

    @property
    def records(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def oldest(self) -> float | None:
        """When the record that has waited longest was taken."""
        return min((queue.entries[0][5] for queue in self._queues.values() if queue.entries), default=None)

    def add(self, entry: Entry) -> None:
        """Behind those of its topic. Raises GatewayError: too much waits already."""
        topic = entry[0].topic
        queue = self._queues.get(topic)
        if queue is None and len(self._queues) >= limits.UNKNOWN_TOPICS_MAX:
            raise GatewayError(f"topic {topic} is not known, as too many others are not", Refusal.UNKNOWN_TOPIC)
        if self._bytes and self._bytes + entry[6] > self._bytes_max:
            raise GatewayError(f"topic {topic} is not known, and too much waits for such", Refusal.UNKNOWN_TOPIC)
        if queue is None:
            queue = self._queues[topic] = PartitionQueue(0)
            self.wanted.set()
        queue.entries.append(entry)
        self._bytes += entry[6]

    def deny(self, topics: Iterable[str], why: str) -> None:
        """What waits for them is refused at its deadline, unless they come before."""
        self._denied |= {topic: why for topic in topics if topic in self._queues}

    def release(self, topic: str) -> list[Entry]:
        """The topic is known now: its records, in their order."""
        queue = self._queues.get(topic)
        taken = self._taken(list(queue.entries)) if queue is not None else []
        self._drop(topic)
        return taken

    def withdraw(self, recipients: set[Recipient]) -> list[Entry]:
        """Takes out what belongs to these recipients."""
        removed = [entry for queue in self._queues.values() for entry in queue.remove(recipients)]
        self._drop_empty()
        return self._taken(removed)

    def take_overdue(self, when: float) -> list[tuple[GatewayError, list[Entry]]]:
        """What was taken before `when`, and what is to be said of it."""
        late = [
            (self._said(topic), self._taken(queue.take_older_than(when)))
            for topic, queue in self._queues.items()
            if queue.entries[0][5] < when
        ]
        self._drop_empty()
        return late

    def _said(self, topic: str) -> GatewayError:
        why = self._denied.get(topic)
        if why is None:
            return GatewayError(f"nothing was heard of topic {topic} in time")
        return GatewayError(f"topic {topic} {why}", Refusal.UNKNOWN_TOPIC)

    def _taken(self, entries: list[Entry]) -> list[Entry]:
        self._bytes -= sum(entry[6] for entry in entries)
        return entries

    def _drop_empty(self) -> None:
        for topic in [topic for topic, queue in self._queues.items() if not queue]:
            self._drop(topic)

    def _drop(self, topic: str) -> None:
        self._queues.pop(topic, None)
        self._denied.pop(topic, None)
        if not self._queues:
            self.wanted.clear()
