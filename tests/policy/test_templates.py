"""Text with variables: every variable, what is known when, and what is said of one that does not exist."""

import pytest

from proxy.limits import TOPIC_LEVELS_NAMED_MAX
from proxy.policy.templates import RESERVED, Scope, compile_template

CONSTANTS = {"prefix": "t_", "node": "node-7"}


@pytest.fixture
def scope() -> Scope:
    scope = Scope(
        "plants/berlin//x", "c1", "dev1&pk1", "10.0.0.1", "device.example", 2, True, 1_652_084_485_000,
        [("region", "eu"), ("other", "x"), ("region", "us"), ("a b", "ü")],
    )  # fmt: skip
    scope.captures = {"plant": "berlin"}
    return scope


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${prefix}ota", "t_ota"),
        ("${node}", "node-7"),
        ("${topic}", "plants/berlin//x"),
        ("${topic.1}-${topic.2}-${topic.3}-${topic.4}-${topic.5}", "plants-berlin--x-"),
        ("${clientid}/${username}", "c1/dev1&pk1"),
        ("${peer} ${cert.cn}", "10.0.0.1 device.example"),
        ("${qos}${retain}", "21"),
        ("${ts}", "1652084485000"),
        ("${prop.region}|${prop.missing}|${prop.a b}", "eu||ü"),
        ("alarms-${plant}", "alarms-berlin"),
        ("a$b$", "a$b$"),
        ("$${topic}", "${topic}"),
        ("$$${plant}", "$${plant}"),
        ("{plant}}", "{plant}}"),
    ],
)
def test_every_variable(scope: Scope, text: str, rendered: str) -> None:
    assert compile_template(text, CONSTANTS, ["plant"]).render(scope) == rendered


def test_what_has_no_value_is_empty() -> None:
    template = compile_template("[${username}${cert.cn}${peer}]", CONSTANTS)
    assert template.render(Scope("a", "c")) == "[]"
    assert compile_template("${retain}", CONSTANTS).render(Scope("a", "c")) == "0"


@pytest.mark.parametrize(
    ("text", "constant", "per_message"),
    [
        ("${prefix}ota", "t_ota", False),
        ("", "", False),
        ("$${topic}", "${topic}", False),
        ("${topic}", None, False),
        ("${clientid}${topic.2}", None, False),
        ("${qos}", None, True),
        ("a${ts}", None, True),
        ("${retain}", None, True),
        ("${prop.x}", None, True),
    ],
)
def test_when_it_is_known(text: str, constant: str | None, per_message: bool) -> None:
    template = compile_template(text, CONSTANTS)
    assert (template.constant, template.per_message) == (constant, per_message)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("${nope}", r"unknown variable \$\{nope\}; there are prefix, node, topic,"),
        ("${}", "unknown variable"),
        ("${topic.0}", "unknown variable"),
        ("${topic.x}", "unknown variable"),
        ("${topic.01}", "unknown variable"),
        ("${prop.}", "unknown variable"),
        ("${PREFIX}", "unknown variable"),
        (f"${{topic.{TOPIC_LEVELS_NAMED_MAX + 1}}}", "beyond the last level"),
        ("a${topic", "no closing brace"),
    ],
)
def test_a_variable_that_does_not_exist(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        compile_template(text, CONSTANTS)


def test_the_last_level_that_has_a_name() -> None:
    last = compile_template(f"${{topic.{TOPIC_LEVELS_NAMED_MAX}}}", CONSTANTS)
    assert last.render(Scope("/" * 40_000 + "x", "c")) == ""
    assert last.render(Scope("/".join(map(str, range(1, 200))), "c")) == str(TOPIC_LEVELS_NAMED_MAX)


@pytest.mark.parametrize("name", sorted(RESERVED - {"prop", "cert", "cert.cn"}))
def test_every_reserved_name_is_a_variable(name: str) -> None:
    compile_template(f"${{{name}}}", CONSTANTS)
