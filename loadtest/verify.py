"""Is everything that was acknowledged in Kafka, once and in order? `LogCheck` knows and does no I/O.

Records are given to it partition by partition in the order of their offsets. Only records of the run in question
count; they carry their run id, connection index and sequence number (`payload.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from loadtest.payload import Payloads
from loadtest.ranges import SequenceRanges
from loadtest.settings import device_name

EXAMPLES = 10
KINDS = ("lost", "corrupted", "reordered", "duplicated")


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a run leaves behind for its verification."""

    run_id: bytes
    size: int
    client_prefix: str
    acked: Mapping[int, SequenceRanges]
    promised: bool = True
    """False at QoS 0, where nothing was acknowledged and a message may be lost."""

    def to_json(self) -> dict[str, Any]:
        ranges = {str(connection): list(each) for connection, each in self.acked.items()}
        return {
            "run_id": self.run_id.hex(),
            "size": self.size,
            "client_prefix": self.client_prefix,
            "promised": self.promised,
            "acked": ranges,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Acknowledged":
        return cls(
            bytes.fromhex(document["run_id"]),
            document["size"],
            document["client_prefix"],
            {int(connection): SequenceRanges(each) for connection, each in document["acked"].items()},
            document["promised"],
        )


class LogCheck:
    """Feed it every record of the topics, then ask for the `result`."""

    def __init__(self, acknowledged: Acknowledged) -> None:
        self._acknowledged = acknowledged
        self._payloads = Payloads(acknowledged.run_id, acknowledged.size)
        self._seen: dict[tuple[str, int], SequenceRanges] = {}  # (topic, connection)
        self._newest: dict[tuple[str, int, int], int] = {}  # (topic, partition, connection)
        self._counts = dict.fromkeys(KINDS, 0)
        self._examples: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self._records = 0

    def add(self, topic: str, partition: int, offset: int, value: bytes | None) -> None:
        identity = self._payloads.identify(value or b"")
        if identity is None:
            return
        self._records += 1
        connection, sequence = identity
        where = f"{topic}-{partition} offset {offset}"
        if value != self._payloads.payload(connection, sequence):
            # Not what was sent, so it does not count as having arrived either.
            self._note("corrupted", connection, sequence, where)
            return
        seen = self._seen.setdefault((topic, connection), SequenceRanges())
        newest = self._newest.get((topic, partition, connection), -1)
        if sequence in seen:
            self._note("duplicated", connection, sequence, where)
        elif sequence < newest:
            self._note("reordered", connection, sequence, f"{where}, after {newest}")
        seen.add(sequence, sequence + 1)
        self._newest[topic, partition, connection] = max(sequence, newest)

    def _note(self, kind: str, connection: int, sequence: int, where: str) -> None:
        self._counts[kind] += 1
        if len(self._examples[kind]) < EXAMPLES:
            name = device_name(self._acknowledged.client_prefix, connection)
            self._examples[kind].append(f"{name} message {sequence}: {where}")

    def result(self) -> dict[str, Any]:
        """Counts and examples. Call it once, after the last record."""
        present = self._present()
        acked = self._acknowledged.acked
        for connection, promised in acked.items():
            lost = promised.without(present.get(connection, SequenceRanges()))
            for sequence in islice(lost.numbers(), EXAMPLES):
                self._note("lost", connection, sequence, "acknowledged, in no topic that was read")
            self._counts["lost"] += max(len(lost) - EXAMPLES, 0)
        unasked = [each.without(acked.get(connection, SequenceRanges())) for connection, each in present.items()]
        return {
            "records": self._records,
            "devices": len(present),
            "acknowledged": sum(map(len, acked.values())),
            **self._counts,
            "unacknowledged": sum(map(len, unasked)),
            "spread": self._spread(),
            "examples": self._examples,
        }

    def _present(self) -> dict[int, SequenceRanges]:
        """Per device what arrived in any topic."""
        present: dict[int, SequenceRanges] = {}
        for (_, connection), seen in self._seen.items():
            arrived = present.setdefault(connection, SequenceRanges())
            for start, stop in seen:
                arrived.add(start, stop)
        return present

    def _spread(self) -> int:
        """Devices whose records are in more than one partition of a topic, where Kafka keeps no order among them."""
        partitions: dict[tuple[str, int], int] = {}
        for topic, _, connection in self._newest:
            partitions[topic, connection] = partitions.get((topic, connection), 0) + 1
        return len({connection for (_, connection), count in partitions.items() if count > 1})


def passed(result: Mapping[str, Any], acknowledged: Acknowledged, exactly_once: bool) -> bool:
    """At-least-once allows duplicates; QoS 0 allows losses too."""
    failures = result["corrupted"] + result["reordered"]
    failures += result["lost"] if acknowledged.promised else 0
    failures += result["duplicated"] if exactly_once else 0
    return not failures
