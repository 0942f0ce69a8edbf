"""Documentation that fails the build: what is printed from the code and what lies in docs/ are the same."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.admin.app import Check, Views, make_app
from proxy.admin.routes import ENDPOINTS
from proxy.config import Row, describe, load
from proxy.metrics import PublishCounter
from proxy.mqtt.packets import ReasonCode
from proxy.node import Node
from proxy.session.events import EndReason

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.mark.parametrize("row", describe(), ids=lambda row: row.key)
def test_every_setting_says_what_it_means(row: Row) -> None:
    assert row.meaning.endswith(".")
    assert row.type
    assert row.default
    # A number in seconds or bytes says so in its name, and its unit is read off it.
    assert bool(row.unit) == row.key.endswith(("_seconds", "_bytes_max", "_per_second_max"))


def test_settings_page_is_what_the_models_say() -> None:
    command = [sys.executable, "-m", "proxy", "config", "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (DOCS / "settings.md").read_text() == printed, "run: python -m proxy config --markdown > docs/settings.md"


def tables(page: Path) -> list[list[str]]:
    """The cells of every row of every table."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


async def exposed() -> dict[str, tuple[str, str, str]]:
    """Type, labels and unit of every metric that a replica shows."""
    settings = load(None, ["auth.anonymous=true", "admin.bind=127.0.0.1:0"], {}).settings
    node = Node(settings)
    # A counter with labels shows nothing until it has counted something.
    for counter in (
        node.metrics.connects,
        node.metrics.disconnects,
        node.metrics.kafka.dead_letters,
        node.metrics.admin_requests,
    ):
        counter.labels("any")
    for counter in (node.metrics.commands, node.metrics.kafka.failed_batches, node.metrics.kafka.token_requests):
        counter.labels("any", "any")
    found = {}
    for family in node.metrics.registry.collect():
        assert family.samples, f"{family.name} has labels: count something above"
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + "_total" * (family.type == "counter")
        unit = next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")
        found[name] = (family.type, ", ".join(f"`{label}`" for label in sorted(labels)), unit)
    node.admin.should_exit = True
    await node.admin.run_until_stopped()
    return found


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    documented = {
        cells[0].strip("`"): tuple(cells[1:4])
        for cells in tables(DOCS / "metrics.md")
        if re.fullmatch(r"`mqk_\w+`", cells[0])
    }
    assert documented == asyncio.run(exposed())


def test_no_page_names_a_metric_that_does_not_exist() -> None:
    known = set(asyncio.run(exposed()))
    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *DOCS.glob("*.md")]
    named = {name for page in pages for name in re.findall(r"\bmqk_\w+\b", page.read_text())}
    assert named <= known, sorted(named - known)


@pytest.mark.parametrize(
    "value",
    [
        *(reason.value for reason in EndReason),
        *vars(PublishCounter()),
        *(
            reason.name.lower()
            for reason in (
                ReasonCode.BANNED,
                ReasonCode.BAD_USER_NAME_OR_PASSWORD,
                ReasonCode.SERVER_UNAVAILABLE,
                ReasonCode.SERVER_BUSY,
                ReasonCode.CONNECTION_RATE_EXCEEDED,
            )
        ),
    ],
)
def test_every_value_of_a_label_is_documented(value: str) -> None:
    first_cells = " ".join(cells[0] for cells in tables(DOCS / "metrics.md"))
    assert f"`{value}`" in first_cells


def test_every_endpoint_is_documented_and_every_documented_one_exists() -> None:
    app = make_app(Views(lambda: Check(True, ""), dict, bytes))
    paths = {route.path for route in app.routes}  # type: ignore[attr-defined]
    first_cells = " ".join(cells[0] for cells in tables(ROOT / "README.md"))
    assert set(re.findall(r"`GET (/\S*)`", first_cells)) == paths


def test_every_admin_request_is_documented_with_its_role_and_an_example() -> None:
    page = (DOCS / "admin.md").read_text()
    documented = {(cells[0].strip("`"), cells[1]) for cells in tables(DOCS / "admin.md") if "/v1/" in cells[0]}
    assert documented == {(f"{each.method} {each.path}", each.role) for each in ENDPOINTS}
    for each in ENDPOINTS:
        method = "" if each.method == "GET" else f"-X {each.method} .*"
        path = re.sub(r"{\w+}", r"[^/ \"]+", each.path)
        assert re.search(rf'^ask {method}"?\$URL{path}(?=["? \n])', page, re.MULTILINE), f"{each.method} {each.path}"


def test_the_examples_of_the_admin_api_are_requests_that_it_takes() -> None:
    found = re.findall(r"^ask -X POST \$URL(\S+) -d '(.*)'", (DOCS / "admin.md").read_text(), re.MULTILINE)
    assert found
    for path, body in found:
        paths = {re.sub(r"{\w+}", "[^/]+", each.path): each for each in ENDPOINTS if each.method == "POST"}
        endpoint = next(each for pattern, each in paths.items() if re.fullmatch(pattern, path))
        assert endpoint.body is not None
        endpoint.body.model_validate(json.loads(body))


def test_every_proof_is_described() -> None:
    described = {cells[0] for cells in tables(ROOT / "ARCHITECTURE.md")}
    assert (
        not {f"`{file.stem.removeprefix('test_')}`" for file in (ROOT / "tests" / "prove").glob("test_*.py")}
        - described
    )
