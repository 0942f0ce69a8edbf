"""The conformance page is complete, true to the tests, and what is printed."""

from pathlib import Path

import pytest

from tests.support.conformance import DATA, PAGE, load, problems, render
from tests.support.wire import statements


def test_every_statement_has_one_status_and_what_it_takes() -> None:
    assert problems(load()) == []


def test_the_page_is_what_is_printed() -> None:
    printed = render(load())
    assert PAGE.read_text() == printed, "run: python -m tests.support.conformance > docs/conformance.md"


def test_the_page_names_every_statement_once() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.read_text().splitlines() if "| MQTT-" in line]
    assert sorted(rows) == sorted(each.partition(":")[2] for each in statements())


#: A change of the data, and the beginning of what is said about it.
MISTAKES = [
    ("5.0:MQTT-3.2.2-13", "", "5.0:MQTT-3.2.2-13 is missing"),
    (
        "5.0:MQTT-3.2.2-13",
        "5.0:MQTT-3.2.2-13 5.0:MQTT-3.2.2-13",
        "5.0:MQTT-3.2.2-13 has not applicable, not applicable",
    ),
    ("5.0:MQTT-3.2.2-13", "5.0:MQTT-3.2.2-13 5.0:MQTT-3.3.2-1", "5.0:MQTT-3.3.2-1 has not applicable, tested"),
    ("RETAIN is accepted, so nothing is refused because of it.", "", "5.0:MQTT-3.2.2-13 has a status without"),
    ("5.0:MQTT-4.13.1-1", "", "5.0:MQTT-4.13.1-1 stands 0 times in never_accepted, not 1"),
    ("5.0:MQTT-4.2.0-1", "", "5.0:MQTT-4.2.0-1 stands 0 times in never_refused, not 1"),
    (
        "5.0:MQTT-4.2.0-1",
        "5.0:MQTT-4.2.0-1 5.0:MQTT-3.3.2-1",
        "5.0:MQTT-3.3.2-1 stands 1 times in never_refused, not 0",
    ),
    (
        "5.0:MQTT-4.2.0-1",
        "5.0:MQTT-4.2.0-1 5.0:MQTT-4.2.0-1",
        "5.0:MQTT-4.2.0-1 stands 2 times in never_refused, not 1",
    ),
    (
        "5.0:MQTT-4.2.0-1",
        "5.0:MQTT-4.2.0-1 5.0:MQTT-3.2.2-13",
        "5.0:MQTT-3.2.2-13 stands 1 times in never_refused, not 0",
    ),
]


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = DATA.read_text()
    assert text.count(old) == 1
    copy = tmp_path / "conformance.toml"
    copy.write_text(text.replace(old, new))
    return copy


@pytest.mark.parametrize(("old", "new", "problem"), MISTAKES, ids=[problem for *_, problem in MISTAKES])
def test_mistakes_are_found(tmp_path: Path, old: str, new: str, problem: str) -> None:
    (found,) = problems(load(changed(tmp_path, old, new)))
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("5.0:MQTT-3.2.2-13", "5.0:MQTT-3.2.2-99", "there is no statement 5.0:MQTT-3.2.2-99"),
        ("::test_a_wrong_password", "::test_nothing", "there is no test"),
        ("tests/peers/test_publish.py", "tests/peers/test_nothing.py", "there is no test"),
        ('"3.1.1:MQTT-4.8.0-2"', '"3.1.1:MQTT-4.8.0-9"', "there is no statement 3.1.1:MQTT-4.8.0-9"),
        ("[tested_by]", "[tested]", "what is tested"),
    ],
)
def test_names_of_nothing_are_found(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load(changed(tmp_path, old, new))
