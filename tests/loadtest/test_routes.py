"""The benchmark of rules, with few of them: that each name goes where it is said to go, and every figure is there."""

import pytest

from loadtest import routes
from loadtest.cli import main


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FILTERS": 9_900 // 50, "OTHERS": 7, "NAMES": 1, "ROUNDS": 1}.items():
        monkeypatch.setattr(routes, name, value)


def test_every_figure_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes"]) == 0
    figures = {name: float(value) for name, value in (line.split() for line in capsys.readouterr().out.splitlines())}
    assert figures.pop("rules") == 9_900 // 50 + 7
    assert set(figures) == {
        "load_seconds", "of_which_toml_seconds", "match_filter_us", "match_last_us", "match_none_us", "decide_last_us",
    }  # fmt: skip
    assert all(value >= 0 for value in figures.values())


def test_a_name_that_goes_elsewhere_is_no_measurement() -> None:
    from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes

    table = compile_routes([RuleSpec(["x"], "other", filter="#")], RoutingContext())
    with pytest.raises(AssertionError, match="a/0 is taken by"):
        routes._microseconds(table, table.match, "a/{}", "last")
