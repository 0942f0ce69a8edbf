"""The conformance page: every normative statement with its status. `python -m tests.support.conformance` prints it.

Vectors and tests say themselves what they prove; what none of them proves, and why, is in `tests/conformance.toml`.
"""

import ast
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.support.wire import statements, vectors

ROOT: Final = Path(__file__).parent.parent.parent
DATA: Final = ROOT / "tests" / "conformance.toml"
PAGE: Final = ROOT / "docs" / "conformance.md"
TESTED: Final = "tested"
#: Keys of the data file that give a status, with the words for it.
REASONED: Final = {"not_applicable": "not applicable", "deviates": "deviating"}
#: Keys of the data file that say why a tested statement lacks vectors of one kind, with the words for it.
EXCUSES: Final = {"never_accepted": "Never accepted", "never_refused": "Never refused"}
_KEYS: Final = {"tested_by", *REASONED, *EXCUSES}


@dataclass
class Statement:
    """What is known of one normative statement."""

    id: str
    #: Vectors that keep it, vectors that break it, and tests: `<packet type> "<name>"`, `<path>::<function>`.
    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    #: Each status that somebody gave it, with the reason; exactly one if all is well.
    statuses: list[tuple[str, str]] = field(default_factory=list)
    #: Why no vector keeps it, and why none breaks it, by the key of the data file.
    excuses: dict[str, list[str]] = field(default_factory=lambda: {key: [] for key in EXCUSES})

    @property
    def tested(self) -> bool:
        return bool(self.accepted or self.refused or self.tests)


def load(data: Path = DATA) -> dict[str, Statement]:
    """All statements in the order of the standards. Raises ValueError: the data name what does not exist."""
    found = {each: Statement(each) for each in sorted(statements(), key=_order)}
    _add_vectors(found)
    for test, ids in _proving_tests().items():
        _add_test(found, test, ids)
    _add_data(found, tomllib.loads(data.read_text()))
    for statement in found.values():
        if statement.tested:
            statement.statuses.append((TESTED, ""))
    return found


def _order(statement: str) -> tuple[str, list[int], int]:
    """By standard, section and number, as in `5.0:MQTT-3.10.4-6`."""
    standard, _, rest = statement.partition(":MQTT-")
    section, _, number = rest.rpartition("-")
    return standard, [int(part) for part in section.split(".")], int(number)


def _add_vectors(found: dict[str, Statement]) -> None:
    for vector in vectors():
        name = f'{vector.packet_type} "{vector.name}"'
        for each in vector.proves:
            (found[each].accepted if vector.reason is None else found[each].refused).append(name)


def _proving_tests() -> dict[str, list[str]]:
    """Test functions with `@proves`, and what it says."""
    proving = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in _functions(path):
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "proves":
                    ids = [ast.literal_eval(argument) for argument in decorator.args]
                    proving[f"{path.relative_to(ROOT)}::{function.name}"] += ids
    return proving


@cache
def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _add_test(found: dict[str, Statement], test: str, ids: Iterable[str]) -> None:
    for each in ids:
        if each not in found:
            raise ValueError(f"{test}: there is no statement {each}")
        found[each].tests.append(test)


def _add_data(found: dict[str, Statement], data: dict[str, Any]) -> None:
    if unknown := data.keys() - _KEYS:
        raise ValueError(f"what is {', '.join(sorted(unknown))}?")
    for test, ids in data.get("tested_by", {}).items():
        path, _, name = test.partition("::")
        if not (ROOT / path).is_file() or name not in {function.name for function in _functions(ROOT / path)}:
            raise ValueError(f"there is no test {test}")
        _add_test(found, test, ids.split())
    for key, status in REASONED.items():
        for each, why in _reasons(found, data, key):
            found[each].statuses.append((status, why))
    for key in EXCUSES:
        for each, why in _reasons(found, data, key):
            found[each].excuses[key].append(why)


def _reasons(found: dict[str, Statement], data: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    for group in data.get(key, []):
        for each in group["ids"].split():
            if each not in found:
                raise ValueError(f"{key}: there is no statement {each}")
            yield each, " ".join(group["why"].split())


def problems(found: dict[str, Statement]) -> list[str]:
    """What is wrong with the page, one sentence each."""
    return [f"{each.id} {problem}" for each in found.values() for problem in _problems(each)]


def _problems(statement: Statement) -> Iterator[str]:
    if len(statement.statuses) != 1:
        names = ", ".join(status for status, _ in statement.statuses)
        yield f"has {names} for a status" if names else "is missing"
    if any(not why for status, why in statement.statuses if status != TESTED):
        yield "has a status without a reason"
    # A test of more than a packet keeps a statement as well as an accepted vector does.
    proofs = {"never_accepted": statement.accepted + statement.tests, "never_refused": statement.refused}
    for key, reasons in statement.excuses.items():
        expected = int(statement.tested and not proofs[key])
        if len(reasons) != expected:
            yield f"stands {len(reasons)} times in {key}, not {expected}"


# ---- the page ----

_INTRODUCTION: Final = """# Conformance

<!-- Printed by `python -m tests.support.conformance`; a test compares. -->

Every numbered normative statement of the two OASIS standards, with what became of it here: *tested*, *not applicable*
to a proxy that is no broker, or *deviating*, each with its reason. Tested ones name the wire vectors (`tests/vectors`)
that keep the statement and are accepted, those that break it and are refused, and the tests beyond single packets.

MQTT 3.1 has no numbered statements; its vectors and tests run beside those of the others. One thing is worth knowing:
3.1 has no word for a subscription that fails, so a device is told that it has one, and nothing is ever delivered.
"""


def render(found: dict[str, Statement]) -> str:
    """The whole page."""
    parts = [_INTRODUCTION, _counts(found)]
    for standard in sorted({each.partition(":")[0] for each in found}):
        rows = [_row(each) for each in found.values() if each.id.startswith(f"{standard}:")]
        head = "| statement | status | how, or why not |\n| --- | --- | --- |"
        parts.append(f"## MQTT {standard}\n\n{head}\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _counts(found: dict[str, Statement]) -> str:
    statuses = [TESTED, *REASONED.values()]
    lines = [f"| | {' | '.join(statuses)} | all |", "| --- |" + " --: |" * (len(statuses) + 1)]
    for standard in sorted({each.partition(":")[0] for each in found}):
        count = Counter(
            status for each in found.values() if each.id.startswith(f"{standard}:") for status, _ in each.statuses
        )
        numbers = [str(count[status]) for status in statuses]
        lines.append(f"| MQTT {standard} | {' | '.join(numbers)} | {count.total()} |")
    return "\n".join(lines) + "\n"


def _row(statement: Statement) -> str:
    name = statement.id.partition(":")[2]
    status, why = statement.statuses[0] if statement.statuses else ("missing", "")
    return f"| {name} | {status} | {_escaped(why or _how(statement))} |"


def _how(statement: Statement) -> str:
    parts = []
    for word, names in [("accepted", statement.accepted), ("refused", statement.refused)]:
        if names:
            parts.append(f"{word}: {', '.join(names)}")
    if statement.tests:
        parts.append("tests: " + ", ".join(f"`{name}`" for name in statement.tests))
    excuses = [f". {EXCUSES[key]}: {why}" for key, reasons in statement.excuses.items() for why in reasons]
    return "; ".join(parts) + "".join(excuses)


def _escaped(text: str) -> str:
    """For a cell of a table."""
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    sys.stdout.write(render(load()))
