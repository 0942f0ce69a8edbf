"""The simulator finds nothing wrong, and finds what is wrong when a rule is broken on purpose.

WIRE_SEEDS=20000 looks at more runs, WIRE_FIRST_SEED=37 begins with the one of a failure. `make prove-wire` runs it for
minutes.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from proxy import limits
from proxy.cluster.table import SessionTable
from proxy.errors import GatewayError
from proxy.flows.attachment import Attachment
from proxy.flows.client import Client
from proxy.mqtt import packets
from proxy.session import protocol
from proxy.session.acks import ReceiveWindow, SendWindow
from proxy.session.events import Event, Grant
from proxy.session.protocol import ServerProtocol
from tests.support.simulator import Violation, simulate

FIRST_SEED = int(os.environ.get("WIRE_FIRST_SEED", "0"))
SEEDS = int(os.environ.get("WIRE_SEEDS", "200"))
#: Runs within which every broken rule is seen; most are seen in the first.
SEEDS_TO_FIND = 60


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of lost status records are simulated and logged; bugs are still seen."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_every_rule_holds() -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        simulate(seed)


def test_much_happens() -> None:
    """Else the rules would hold because nothing tries them."""
    messages = [message for seed in range(20) for message in simulate(seed).messages.values()]
    for what in ("stored", "refused", "failed", "told", "repeats", "repeats_told", "completed"):
        assert sum(getattr(message, what) for message in messages) > 10, what


def test_the_same_seed_is_the_same_run() -> None:
    assert [vars(each) for each in simulate(3).messages.values()] == [
        vars(each) for each in simulate(3).messages.values()
    ]


# ---- rules that are broken ----


def acknowledge_before_kafka(patch: pytest.MonkeyPatch) -> None:
    def on_publish(client: Client, publish: packets.Publish, original: Any = Client.on_publish) -> None:
        original(client, publish)
        if publish.qos:
            client.settle([publish.packet_id], None, 0.0)

    def settle(client: Client, *args: Any, original: Any = Client.settle) -> None:
        # What Kafka says later comes too late.
        if client.connection.protocol._window.unsettled:
            original(client, *args)

    patch.setattr(Client, "on_publish", on_publish)
    patch.setattr(Client, "settle", settle)


def acknowledge_what_failed(patch: pytest.MonkeyPatch) -> None:
    def settle(
        client: Client, tokens: list[int], error: GatewayError | None, seconds: float, original: Any = Client.settle
    ) -> None:
        original(client, tokens, error if error is not None and error.refusal else None, seconds)

    patch.setattr(Client, "settle", settle)


def acknowledge_as_it_settles(patch: pytest.MonkeyPatch) -> None:
    def settle(window: ReceiveWindow, packet_ids: list[int], reason_code: int) -> list[tuple[int, int]]:
        for packet_id in packet_ids:
            del window._settled[packet_id]
        return [(packet_id, reason_code) for packet_id in packet_ids]

    patch.setattr(ReceiveWindow, "settle", settle)


def forget_after_pubrec(patch: pytest.MonkeyPatch) -> None:
    def receive_of(
        window: ReceiveWindow, packet_id: int, refused: bool, original: Any = ReceiveWindow.receive_of
    ) -> bool:
        answered: bool = original(window, packet_id, True)
        return answered

    patch.setattr(ReceiveWindow, "receive_of", receive_of)


def overtake_what_is_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(protocol, "_ORDERED", protocol._ORDERED - {packets.PUBREL})


def answer_pings_later(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(protocol, "_ORDERED", protocol._ORDERED | {packets.PINGREQ})


def hold_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "HELD_BYTES_MAX", 1_000_000)


def leave_the_older_connection(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Client, "disconnect", lambda *args: None)


def exceed_the_receive_maximum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SendWindow, "full", False)


def exceed_the_maximum_packet_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ServerProtocol, "_peer_packet_bytes_max", lambda session: packets.PACKET_BYTES_MAX)


def take_more_than_the_window(patch: pytest.MonkeyPatch) -> None:
    def accept_connect(
        session: ServerProtocol, grant: Grant, original: Any = ServerProtocol.accept_connect
    ) -> list[Event]:
        session._limits = replace(session._limits, receive_maximum=100)
        events: list[Event] = original(session, grant)
        return events

    patch.setattr(ServerProtocol, "accept_connect", accept_connect)


def never_acknowledge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ServerProtocol, "settle_publishes", lambda session, packet_ids, reason_code: None)


def let_in_before_the_claim(patch: pytest.MonkeyPatch) -> None:
    def claim(attachment: Attachment, original: Any = Attachment.claim) -> None:
        original(attachment)
        attachment._client.accept(False, [], hold=False)

    patch.setattr(Attachment, "claim", claim)
    patch.setattr(Attachment, "on_established", lambda attachment, session_present: None)


def leave_ghosts(patch: pytest.MonkeyPatch) -> None:
    """Nobody says that a connection is over: rules 4 and 5."""
    patch.setattr(SessionTable, "end", lambda table, session, *args, **kwargs: table.local.pop(session.client_id, None))
    patch.setattr(SessionTable, "_is_ghost", lambda table, packed: False)


BROKEN: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    acknowledge_before_kafka: "reason 0x00 for Message",
    acknowledge_what_failed: "reason 0x00 for Message",
    acknowledge_as_it_settles: "was to be answered first",
    forget_after_pubrec: "produced again",
    overtake_what_is_held: "produced again",
    answer_pings_later: "were answered",
    hold_without_end: "bytes held",
    leave_the_older_connection: "two connections of",
    exceed_the_receive_maximum: "messages in flight to a device",
    exceed_the_maximum_packet_size: "is larger than the device takes",
    take_more_than_the_window: "messages taken",
    never_acknowledge: "not settled in the end",
    let_in_before_the_claim: "CONNACK before its CLAIM was read back",
    leave_ghosts: "the session log names",
}


@pytest.mark.parametrize("rule", BROKEN, ids=lambda rule: rule.__name__.replace("_", " "))
def test_a_broken_rule_is_found(rule: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    rule(monkeypatch)
    with pytest.raises(Violation, match=r"seed \d+: .*" + BROKEN[rule]):
        for seed in range(SEEDS_TO_FIND):
            simulate(seed)
