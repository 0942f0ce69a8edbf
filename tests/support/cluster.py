"""Several replicas on one Kafka, as behind a load balancer: the same topics, one session log, ports of their own."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import free_port
from tests.support.proxy import ProxyProcess

Status = dict[str, Any]


class Cluster:
    """`size` replicas that nothing restarts. As a context manager they are killed at the end."""

    def __init__(
        self,
        kafka: KafkaBroker,
        directory: Path,
        size: int,
        settings: Mapping[str, object] | None = None,
        behind: Sequence[str] = (),
    ) -> None:
        self.kafka = kafka
        self.name = f"c{free_port()}"
        shared = {"kafka.topic_prefix": f"{self.name}_", "kafka.internal_prefix": f"_{self.name}_", **(settings or {})}
        self.replicas = [
            ProxyProcess(kafka.bootstrap, directory, {**shared, "node.id": f"{self.name}-{number}"}, behind=behind)
            for number in range(size)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for process in self.processes:
                self._stack.enter_context(process)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def processes(self) -> Sequence[AbstractContextManager[object]]:
        """All that belongs to it, in the order in which it starts."""
        return self.replicas

    @property
    def ports(self) -> list[int]:
        return [replica.port for replica in self.replicas]

    def status(self) -> list[Status]:
        """What `status` says, without repeats: what is not above the last pair of a client id repeats something."""
        told: list[Status] = []
        last: dict[str, tuple[int, int, str]] = {}
        for record in self.kafka.read(f"{self.name}_status"):
            fields = json.loads(record.value or b"")
            place = (fields["offset"], fields["epoch"])
            if place > last.get(fields["clientid"], (-1, -1)):
                last[fields["clientid"]] = place
                told.append(fields)
        return told

    def told(self, client_id: str) -> list[Status]:
        """What `status` says of one client, for a failure to show."""
        return [each for each in self.status() if each["clientid"] == client_id]
