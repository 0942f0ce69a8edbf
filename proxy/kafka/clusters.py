"""The gateways of a replica, started and stopped together.

Without the cluster of `[kafka]` nobody can connect. Further ones may come later, and go without the others noticing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence

from proxy import limits
from proxy.errors import ConfigError
from proxy.kafka.client import AioKafkaGateway
from proxy.kafka.internal import Topic

log = logging.getLogger(__name__)

#: The name of the cluster of `[kafka]`.
DEFAULT = ""


class Clusters:
    """The gateways by the name of their cluster."""

    def __init__(self, gateways: Mapping[str, AioKafkaGateway]) -> None:
        self.gateways = gateways
        #: By cluster: what is wrong with its configuration, as its Kafka says.
        self.problems: dict[str, ConfigError] = {}
        self._starting: list[asyncio.Task[None]] = []

    async def start(self, topics: Mapping[str, Sequence[str]], internal: Sequence[Topic] = ()) -> None:
        """Returns once the default cluster has started, where the `internal` topics are; the others have a few seconds,
        then they go on by themselves, and their records wait. Raises ConfigError: what a cluster that answers in that
        time says is wrong.
        """
        heard = {name: asyncio.Event() for name in self.gateways if name != DEFAULT}
        for name, event in heard.items():
            self._starting.append(asyncio.create_task(self._start_further(name, topics.get(name, []), event)))
        await self.gateways[DEFAULT].start(topics[DEFAULT], internal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.CLUSTER_START_SECONDS):
                for event in heard.values():
                    await event.wait()
        for problem in self.problems.values():
            raise problem

    async def flush(self, timeout_seconds: float) -> int:
        """Of all; the number of records that are unsettled when the time is over."""
        return sum(await asyncio.gather(*(gateway.flush(timeout_seconds) for gateway in self.gateways.values())))

    async def stop(self) -> None:
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(gateway.stop() for gateway in self.gateways.values()))

    async def _start_further(self, name: str, topics: Sequence[str], heard: asyncio.Event) -> None:
        while True:
            try:
                await self.gateways[name].start(topics)
            except ConfigError as error:
                table = f"kafka.clusters.{name}"
                named = error.setting.startswith(table)
                setting = error.setting if named else table + error.setting.removeprefix("kafka")
                self.problems[name] = ConfigError(setting, error.message)
                log.error("kafka cluster cannot be used", extra={"cluster": name, "error": str(self.problems[name])})
                heard.set()
                await asyncio.sleep(limits.CLUSTER_RETRY_SECONDS)
            else:
                self.problems.pop(name, None)
                log.info("kafka cluster started", extra={"cluster": name})
                heard.set()
                return
