"""The pace at which an aiokafka client asks for metadata."""

import asyncio
import contextlib

from proxy import limits
from proxy.kafka.embedded import EmbeddedKafka
from proxy.kafka.metadata import MetadataPace
from proxy.kafka.readers import LogReader
from tests.kafka.conftest import until


class Cluster:
    """Answers every question at once, and counts them."""

    def __init__(self) -> None:
        self.asked = 0

    def force_metadata_update(self) -> "asyncio.Future[bool]":
        self.asked += 1
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(False)
        return answer


async def test_a_cluster_that_answers_at_once_is_not_asked_without_pause() -> None:
    cluster = Cluster()
    pace = MetadataPace(cluster.force_metadata_update)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        assert await pace.force_metadata_update() is False
    assert cluster.asked == 4
    assert loop.time() - began >= 3 * limits.METADATA_GAP_SECONDS - 0.01


async def test_who_asks_while_an_answer_is_due_waits_for_the_same() -> None:
    cluster = Cluster()
    pace = MetadataPace(cluster.force_metadata_update)
    await pace.force_metadata_update()
    assert await asyncio.gather(*(pace.force_metadata_update() for _ in range(5))) == [False] * 5
    assert cluster.asked == 2


async def test_a_question_that_is_cancelled_is_answered_no() -> None:
    question: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asked = MetadataPace(lambda: question).force_metadata_update()
    question.cancel()
    assert await asked is False


async def test_a_reader_without_a_leader_does_not_ask_a_dead_cluster_without_pause() -> None:
    kafka = EmbeddedKafka()
    await kafka.start(["log"])
    reader = LogReader({"bootstrap_servers": [kafka.bootstrap_server]}, "log", lambda records: None, gapless=False)
    await reader.start()
    await reader.replay()
    following = asyncio.create_task(reader.follow())
    client = reader._consumer._client
    try:
        await kafka.stop()
        # As a broker says that goes down in good order.
        leaders = client.cluster._partitions["log"]
        leaders.update({number: each._replace(leader=-1) for number, each in leaders.items()})
        asked, ask = [], client._metadata_update

        async def counted(*question: object) -> bool:
            asked.append(question)
            return bool(await ask(*question))

        client._metadata_update = counted
        await until(lambda: len(asked) >= 2, "asked")
        began, so_far = asyncio.get_running_loop().time(), len(asked)
        await until(lambda: len(asked) >= so_far + 5, "asked again")
        assert asyncio.get_running_loop().time() - began >= 4 * limits.METADATA_GAP_SECONDS
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await reader.stop()
