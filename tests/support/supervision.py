"""What becomes of a fleet when a replica below a supervisor dies or hangs. The sizes are the caller's."""

import asyncio
import signal
import time
from typing import Any

from tests.support.roamers import Roamer
from tests.support.sessions import at_rest, roaming, until
from tests.support.supervised import Supervised

#: A hung replica is given 20 s before it is replaced; the machine may be busy.
BACK_SECONDS = 90.0


async def replaced(workers: Supervised, size: int, victim: int, number: signal.Signals, name: str) -> dict[str, Any]:
    """One replica gets a signal: another is there in its slot, on its ports, under its name, and has its clients. Each
    device, whose id begins with `name`, knows one port only, so it is back when that port answers.
    """
    slot = workers.slots[victim]
    roamers = [Roamer(f"{name}-{each}", [workers.ports[each % len(workers.ports)]]) for each in range(size)]
    others = [each for each in workers.slots if each != slot]
    before = {each.number: each.incarnation() for each in workers.slots}
    async with roaming(roamers):
        lost = [roamer for roamer in roamers if roamer.port == slot.port]
        began = time.monotonic()
        pid = workers.signal(slot, number)
        await asyncio.to_thread(workers.wait_for_another, slot, before[victim], BACK_SECONDS)
        replaced_seconds = time.monotonic() - began
        await until(lambda: all(each.connected and each.broken for each in lost), "its clients are back", BACK_SECONDS)
        back_seconds = time.monotonic() - began
        await at_rest(workers, roamers)
        assert workers.pid(slot) != pid
        assert [each.incarnation() for each in others] == [before[each.number] for each in others]
        assert not any(roamer.broken for roamer in roamers if roamer not in lost), "a neighbour was cut"
    return {
        "clients lost": len(lost),
        "replaced after seconds": round(replaced_seconds, 1),
        "all clients back after seconds": round(back_seconds, 1),
    }
