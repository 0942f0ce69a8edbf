"""The pace at which aiokafka may ask for metadata."""

import asyncio

from proxy import limits
from proxy.kafka.producers import MetadataPace


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
