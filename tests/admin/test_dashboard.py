"""The page at `/`: it is one file, loads nothing from elsewhere, and asks only what the API has."""

import base64
import hashlib
import re

from proxy.admin.dashboard import HEADERS, PAGE
from proxy.admin.routes import ENDPOINTS
from tests.admin.parts import Door

SCRIPT = PAGE.partition("<script>")[2].partition("</script>")[0]


async def test_it_needs_no_token_and_shows_nothing_by_itself(door: Door) -> None:
    answer = await door.ask("GET", "/", token=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == PAGE
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_only_its_own_script_and_style_run() -> None:
    for tag, content in (("script", SCRIPT), ("style", PAGE.partition("<style>")[2].partition("</style>")[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in HEADERS["Content-Security-Policy"]
        assert PAGE.count(f"<{tag}") == 1
    # The policy would forbid both.
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", PAGE.replace(SCRIPT, ""))


def test_it_loads_nothing_from_elsewhere() -> None:
    assert not re.search(r"https?://|\bsrc=|<link|@import|url\(", PAGE)


def test_what_devices_say_is_text() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", SCRIPT)


def test_it_asks_only_what_there_is() -> None:
    templates = {re.sub(r"{\w+}", "X", endpoint.path) for endpoint in ENDPOINTS}
    asked = set(re.findall(r"[\"`](/v1/[^\"`?]*)", SCRIPT))
    assert len(asked) > 5
    # What stands for a part of a path has an end of its own: `)}`.
    assert {re.sub(r"\${.*?\)}", "X", path) for path in asked} <= templates


def test_every_element_that_the_script_looks_for_is_there() -> None:
    named = set(re.findall(r"\b(?:find|on|table)\(\"(\w+)\"", SCRIPT))
    assert named <= set(re.findall(r'id="(\w+)"', PAGE))
