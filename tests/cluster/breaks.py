"""Each rule of the session log, broken: a protocol with one of these must be caught by the model."""

from dataclasses import replace
from typing import Final

from proxy.cluster import table
from proxy.cluster.table import LocalSession, SessionTable
from proxy.kafka.records import SessionRecord, SessionState
from tests.cluster.model import Break


class LastRecordCounts(SessionTable):
    """The view is the last record, not the one of highest rank."""

    def _is_stale(self, packed: bytes | None, record: SessionRecord) -> bool:
        return False


class RankWithoutSeq(SessionTable):
    def _is_stale(self, packed: bytes | None, record: SessionRecord) -> bool:
        return packed is not None and record.epoch < int.from_bytes(packed[:8])


class NobodyRepeatsTheView(SessionTable):
    """The last record of a key, which compaction keeps, stays a stale one."""

    def _repeat_view(self, client_id: str, packed: bytes) -> None: ...


class NobodyClosesTheOlder(SessionTable):
    """Rule 2."""

    def _compare(self, session: LocalSession, record: SessionRecord, packed: bytes | None) -> None:
        if record.epoch <= session.epoch:
            super()._compare(session, record, packed)


class NobodyAssertsAgain(SessionTable):
    """Rule 3."""

    def _heal_own(self, session: LocalSession, packed: bytes | None) -> None: ...


class GhostsStay(SessionTable):
    """Rule 4."""

    def _is_ghost(self, packed: bytes) -> bool:
        return False


class GhostsAreSeenAtBatchEndsOnly(SessionTable):
    """Rule 4 without "and whenever a connection ends"."""

    def end(self, session: LocalSession, reason: str, qos2: object, *, with_will: bool) -> None:
        if session.epoch >= 0:
            super().end(session, reason, qos2, with_will=with_will)  # type: ignore[arg-type]
        elif self.local.get(session.client_id) is session:
            del self.local[session.client_id]


class StateFromTheClaimOnly(SessionTable):
    """What a CLAIM carries counts, whatever preceded it."""

    def _follow(
        self, before: SessionRecord | None, claim: SessionRecord
    ) -> tuple[SessionState | None, bool, SessionState | None]:
        return table.follow(None, claim)


class Qos2TakeoverSaysPresent(SessionTable):
    """Identifiers that only another replica knows are taken for none."""

    def _follow(
        self, before: SessionRecord | None, claim: SessionRecord
    ) -> tuple[SessionState | None, bool, SessionState | None]:
        if before is not None and before.state is not None and before.state.qos2 is None:
            before = replace(before, state=replace(before.state, qos2=[]))
        return table.follow(before, claim)


class NobodySweeps(SessionTable):
    """Rule 7."""

    def sweep(self, client_ids: object, is_dead: object, now_ms: int) -> int:
        return 0


BREAKS: Final = {
    "view is the last record": Break(table=LastRecordCounts),
    "rank without seq": Break(table=RankWithoutSeq),
    "nobody repeats the view": Break(table=NobodyRepeatsTheView),
    "rule 1: CONNACK does not wait": Break(connack_waits=False),
    "rule 1: state only from the CLAIM": Break(table=StateFromTheClaimOnly),
    "rule 1: QoS 2 in use says present": Break(table=Qos2TakeoverSaysPresent),
    "rule 1: unknown CLAIM is kept": Break(claim_outcome_unknown_closes=False),
    "rule 2": Break(table=NobodyClosesTheOlder),
    "rule 3": Break(table=NobodyAssertsAgain),
    "rule 4": Break(table=GhostsStay),
    "rule 4: at batch ends only": Break(table=GhostsAreSeenAtBatchEndsOnly),
    "rule 4 and 5": Break(table=GhostsStay, releases=False),
    "rule 6: lag is ignored": Break(restarts_after_lag=False),
    "rule 7: nobody sweeps": Break(table=NobodySweeps),
    "rule 7: dead nodes are not swept": Break(sweeps_dead_nodes=False),
    "rule 7: older incarnations are not swept": Break(sweeps_older_incarnations=False),
    "rule 8": Break(stops_for_newer_incarnation=False),
    "rule 9: SUBACK does not wait": Break(suback_waits=False),
    "rule 9: sessions are born confirmed": Break(confirms=False),
    "producer is not idempotent": Break(idempotent=False),
    "presence by the writer": Break(announces_by_role=False),
    "presence repeats known by epoch": Break(repeats_known_by_offset=False),
    "compaction faster than heals": Break(compaction_waits_for_heals=False),
    "tombstones are forgotten": Break(tombstones_are_kept=False),
}
