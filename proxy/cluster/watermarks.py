"""How far a partition of commands has been dealt with: up to the first record that is not settled. Pure."""

from collections import deque


class Watermark:
    """Of one partition, while it is this replica's. Records are begun in order and settled in any."""

    __slots__ = ("_begun", "_settled", "committed", "offset")

    def __init__(self, offset: int) -> None:
        #: What may be committed: every record below it is settled.
        self.offset = offset
        #: What was committed last.
        self.committed = offset
        self._begun: deque[int] = deque()
        self._settled: set[int] = set()

    def __len__(self) -> int:
        """Records from the first one that is not settled on."""
        return len(self._begun)

    @property
    def unsettled(self) -> int:
        return len(self._begun) - len(self._settled)

    def begin(self, offset: int) -> None:
        """The next record; offsets may have holes."""
        self._begun.append(offset)

    def settle(self, offset: int) -> None:
        """Once for each record that was begun."""
        self._settled.add(offset)
        while self._begun and self._begun[0] in self._settled:
            done = self._begun.popleft()
            self._settled.remove(done)
            self.offset = done + 1
