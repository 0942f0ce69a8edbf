"""Settings: where they come from, which is stronger, and what is said of every one that is wrong."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError, create_model

from proxy.config import ConfigErrors, Loaded, Settings, changed, describe, load, split_address
from proxy.config.problems import ABSENT_KEYS, ABSENT_VALUES, explain, mask
from proxy.config.settings import PUBLISH_BYTES_CEILING, Admin
from proxy.errors import ConfigError

OPEN = "[auth]\nanonymous = true\n"


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "mqk.toml"


def given(toml: Path, text: str, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Loaded:
    toml.write_text(OPEN + text)
    return load(toml, overrides, environ or {})


def problems(
    toml: Path, text: str, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigErrors) as raised:
        given(toml, text, overrides, environ)
    return str(raised.value).replace(f"file {toml}", "file").splitlines()


def test_defaults_are_the_public_interface() -> None:
    settings = load(None, ["auth.anonymous=true"]).settings
    assert settings.kafka.bootstrap_servers == ["127.0.0.1:9092"]
    assert settings.kafka.topic_prefix == "tlink_device_"
    assert (settings.kafka.unsafe_acks, settings.kafka.unsafe_idempotence) == ("all", True)
    assert [listener.bind for listener in settings.listeners] == ["0.0.0.0:1883"]
    assert settings.routing.preset == "tlink"
    assert settings.status_topic() == "tlink_device_status"
    assert settings.warnings() == []


def test_flag_beats_environment_beats_file(toml: Path) -> None:
    text = '[kafka]\ntopic_prefix = "file_"\npartitions = 3\nreplication_factor = 2\n'
    environ = {"MQK_KAFKA__TOPIC_PREFIX": "environment_", "MQK_KAFKA__PARTITIONS": "4", "HOME": "/"}
    settings, origin = given(toml, text, ["kafka.topic_prefix=flag_"], environ)
    assert (settings.kafka.topic_prefix, origin["kafka.topic_prefix"]) == ("flag_", "flag")
    assert (settings.kafka.partitions, origin["kafka.partitions"]) == (4, "environment MQK_KAFKA__PARTITIONS")
    assert (settings.kafka.replication_factor, origin["kafka.replication_factor"]) == (2, f"file {toml}")
    assert origin["kafka.create_topics"] == "default"


def test_what_a_command_assumes_is_the_weakest(toml: Path) -> None:
    base = {"auth": {"anonymous": True}, "listeners": [{"bind": "127.0.0.1:1883"}]}
    settings, origin = load(None, environ={"MQK_AUTH__ANONYMOUS": "yes"}, base=base)
    assert settings.listeners[0].bind == "127.0.0.1:1883"
    assert (origin["listeners[0].bind"], origin["listeners[0].transport"]) == ("command", "default")
    assert origin["auth.anonymous"] == "environment MQK_AUTH__ANONYMOUS"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("kafka.bootstrap_servers=a:1, b:2", ["a:1", "b:2"]),
        ('kafka.bootstrap_servers=["a:1"]', ["a:1"]),
        ("kafka.headers=", []),
        ("kafka.create_topics=false", False),
        ("kafka.unsafe_acks=all", "all"),
        ("kafka.topic_prefix=", ""),
        ("kafka.topic_prefix=12", "12"),
        ("routing.md5_partitions=12", 12),
        ("status.topic=${prefix}a", "${prefix}a"),
        ('listeners=[{"bind": "[::1]:1883"}]', [{"bind": "[::1]:1883", "transport": "tcp", "proxy_protocol_from": []}]),
    ],
)
def test_text_is_read_as_its_setting_needs_it(override: str, value: object) -> None:
    section, _, name = override.partition("=")[0].partition(".")
    dumped = load(None, ["auth.anonymous=true", override]).settings.model_dump()[section]
    assert (dumped[name] if name else dumped) == value
    variable = f"MQK_{override.partition('=')[0].replace('.', '__').upper()}"
    environ = {variable: override.partition("=")[2], "MQK_AUTH__ANONYMOUS": "true"}
    dumped = load(None, environ=environ).settings.model_dump()[section]
    assert (dumped[name] if name else dumped) == value


def test_a_list_replaces_the_list_of_a_weaker_source(toml: Path) -> None:
    text = '[[listeners]]\nbind = "127.0.0.1:1"\ntransport = "tcp"\n[[listeners]]\nbind = "127.0.0.1:2"\n'
    settings, origin = given(toml, text, ['listeners=[{"bind": "127.0.0.1:3"}]'])
    assert [listener.bind for listener in settings.listeners] == ["127.0.0.1:3"]
    assert {key: said for key, said in origin.items() if key.startswith("listeners")} == {
        "listeners[0].bind": "flag",
        "listeners[0].transport": "default",
        "listeners[0].proxy_protocol_from": "default",
    }


def test_paths_are_relative_to_the_file(toml: Path) -> None:
    text = (
        '[[auth.chain]]\ntype = "password_file"\npath = "passwd"\n[[auth.chain]]\ntype = "password_file"\npath = "/p"\n'
    )
    chain = given(toml, text).settings.auth.chain
    assert [entry.path for entry in chain] == [toml.parent / "passwd", Path("/p")]


def test_every_problem_is_reported_at_once(toml: Path) -> None:
    text = """
    [kafka]
    botstrap_servers = ["a:1"]
    partitions = 0
    create_topics = "true"
    client = { sasl_mechanism = "PLAIN", sasl_kerberos_service_name = "kafka" }
    [[listeners]]
    bind = "::1:1883"
    tls = { certificate = "server.crt" }
    [log]
    level = "loud"
    """
    overrides = ["mqtt.receive_maximum=many", "kafka.client.ssl_password=hunter2"]
    found = problems(toml, text, overrides, {"MQK_KAFKA_TOPIC_PREFIX": "x"})
    assert set(found) == {
        "kafka.botstrap_servers: unknown setting; did you mean kafka.bootstrap_servers? [file]",
        "kafka.partitions: should be greater than or equal to 1, not 0 [file]",
        'kafka.create_topics: should be a valid boolean, not "true" [file]',
        "kafka.client.sasl_mechanism: goes only with security_protocol = SASL_PLAINTEXT or SASL_SSL [file]",
        "kafka.client.sasl_kerberos_service_name: not in this version (0.1.0) [file]",
        "kafka.client.ssl_password: goes only with ssl_certfile [flag]",
        'listeners[0].bind: an IPv6 address stands in brackets, as in [::1]:1883, not "::1:1883" [file]',
        "listeners[0].tls: not in this version (0.1.0) [file]",
        "log.level: should be 'debug', 'info', 'warning' or 'error', not \"loud\" [file]",
        'mqtt.receive_maximum: should be a valid integer, not "many" [flag]',
        "kafka_topic_prefix: unknown setting; did you mean kafka.topic_prefix? [environment MQK_KAFKA_TOPIC_PREFIX]",
    }
    assert len(found) == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kafka = "x"', 'kafka: should be a table, not "x" [file]'),
        ("[kafka]\npartitions = true", "kafka.partitions: should be a valid integer, not true [file]"),
        ("[kafka]\nreplication_factor = 0", "kafka.replication_factor: should be -1 or at least 1 [file]"),
        ("[kafka]\nbootstrap_servers = []", "kafka.bootstrap_servers: list should have at least 1 item"),
        (
            '[[listeners]]\nproxy_protocol_from = ["10.0.0.1/24"]',
            "listeners[0].proxy_protocol_from[0]: should be a network, as in 10.0.0.0/24: 10.0.0.1/24 has host bits",
        ),
        ('[kafka]\nbootstrap_servers = ["a:0"]', "kafka.bootstrap_servers[0]: should be host:port with a port of 1 to"),
        ('[kafka]\nheaders = ["mqtt.topic", "mqtt.topic"]', "kafka.headers: given twice: mqtt.topic [file]"),
        ('[kafka]\nheaders = ["mqtt.foo"]', "kafka.headers[0]: should be 'mqtt.topic', 'mqtt.clientid',"),
        ('[kafka]\ntopic_prefix = "a b"', "kafka.topic_prefix: should be made of letters, digits, dots, underscores"),
        ('[kafka]\nunsafe_acks = "1"', 'kafka.unsafe_idempotence: Kafka is idempotent only with unsafe_acks = "all"'),
        ("[mqtt]\npublish_bytes_max = 1048588", "mqtt.publish_bytes_max: should be less than or equal to 1031180, not"),
        (
            '[kafka]\ncompression = "brotli"',
            "kafka.compression: should be 'none', 'gzip', 'snappy', 'lz4' or 'zstd', not",
        ),
        ('[status]\ntopic = "${node}status"', "status.topic: should be ${prefix} and at most 49 letters"),
        ('[admin]\nbind = "0.0.0.0:1883"', "admin: admin.bind 0.0.0.0:1883 is a listener's already [file]"),
        (
            '[admin]\nbind = "0.0.0.0:8080"',
            "admin: admin.bind 0.0.0.0:8080 is not a loopback address, and without [[admin.tokens]] everybody could "
            "give orders there; `mqk token` makes one [file]",
        ),
        (
            '[[admin.tokens]]\nname = "ops"\ntoken_sha256 = "abc"',
            "admin.tokens[0].token_sha256: should be 64 hexadecimal digits; `mqk token` prints them, "
            'not "********" [file]',
        ),
        (
            f'[[admin.tokens]]\nname = "a"\ntoken_sha256 = "{"0" * 64}"\n'
            f'[[admin.tokens]]\nname = "a"\ntoken_sha256 = "{"1" * 64}"',
            "admin.tokens: given twice: a [file]",
        ),
        (
            "".join(f'[[admin.tokens]]\nname = "a{n}"\ntoken_sha256 = "{"0" * 64}"\n' for n in range(101)),
            "admin.tokens: list should have at most 100 items",
        ),
        (
            f'[[routing.rules]]\nfilter = "#"\ntopic = {[f"t{n}" for n in range(17)]}',
            "routing.rules[0].topic: list should have at most 16 items",
        ),
        ('[[listeners]]\nbind = "a:1"\n[[listeners]]\nbind = "a:1"', "listeners: given twice: a:1 [file]"),
        ("listeners = []", "listeners: list should have at least 1 item after validation, not 0 [file]"),
        ('[[auth.chain]]\ntype = "password_file"', "auth.chain[0].path: has no default and must be given [file]"),
        ('[[auth.chain]]\ntype = ["http"]', "auth.chain[0].type: should be 'password_file', not [\"http\"] [file]"),
        ("[node]\nid = 7", "node.id: should be a valid string, not 7 [file]"),
    ],
)
def test_a_wrong_value_is_refused_by_name(toml: Path, text: str, message: str) -> None:
    toml.write_text(text + "\n" + ("" if "auth" in text else OPEN))
    with pytest.raises(ConfigErrors) as raised:
        load(toml)
    assert any(line.startswith(message) for line in str(raised.value).replace(f"file {toml}", "file").splitlines())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("kafka", "--set: write key=value, not 'kafka'"),
        ("=x", "--set: write key=value, not '=x'"),
        ("listeners=127.0.0.1:1883", "listeners: should be a list of tables in JSON: "),
        ('kafka.headers=["a"', "kafka.headers: begins like a list in JSON, and is none: "),
        ("listeners[0].bind=a:1", "listeners[0]: unknown setting; did you mean listeners? [flag]"),
        ("nonsense.entirely=1", "nonsense: unknown setting [flag]"),
        ("kafka.compresion=lz4", "kafka.compresion: unknown setting; did you mean kafka.compression? [flag]"),
        ("kafka.topic_prefix.x=1", 'kafka.topic_prefix: should be a valid string, not {"x": "1"} [flag]'),
    ],
)
def test_a_wrong_flag_is_refused_by_name(toml: Path, override: str, message: str) -> None:
    assert problems(toml, "", [override])[0].startswith(message)


CLUSTER = '[kafka.clusters.backup]\nbootstrap_servers = ["b:9092"]\n'


def test_further_clusters_have_names_and_the_same_keys(toml: Path) -> None:
    text = CLUSTER + 'queue_bytes_max = 2000000\n[kafka.clusters.backup.client]\nsecurity_protocol = "PLAINTEXT"\n'
    overrides = ["kafka.clusters.backup.partitions=3", "kafka.clusters.far-away.bootstrap_servers=c:1, d:2"]
    environ = {"MQK_KAFKA__CLUSTERS__BACKUP__CREATE_TOPICS": "false"}
    settings, origin = given(toml, text, overrides, environ)
    backup, far_away = settings.kafka.clusters["backup"], settings.kafka.clusters["far-away"]
    assert (backup.bootstrap_servers, backup.queue_bytes_max, backup.partitions) == (["b:9092"], 2_000_000, 3)
    assert not backup.create_topics
    assert (far_away.bootstrap_servers, far_away.partitions) == (["c:1", "d:2"], 12)
    assert settings.kafka.clusters.keys() == {"backup", "far-away"}
    assert origin["kafka.clusters.backup.create_topics"] == "environment MQK_KAFKA__CLUSTERS__BACKUP__CREATE_TOPICS"
    assert origin["kafka.clusters.far-away.partitions"] == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[kafka.clusters.backup]\npartitions = 3", "kafka.clusters.backup.bootstrap_servers: has no default and must"),
        (
            '[kafka.clusters.Back_up]\nbootstrap_servers = ["b:1"]',
            "kafka.clusters.Back_up: a cluster is named by",
        ),
        (
            '[kafka.clusters.default]\nbootstrap_servers = ["b:1"]',
            "kafka.clusters.default: a cluster is named by",
        ),
        (CLUSTER + "partitions = 0", "kafka.clusters.backup.partitions: should be greater than or equal to 1, not 0"),
        (
            CLUSTER + "botstrap = 1",
            "kafka.clusters.backup.botstrap: unknown setting; did you mean kafka.clusters.backup",
        ),
        (
            CLUSTER + 'topic_prefix = "a"',
            "kafka.clusters.backup.topic_prefix: unknown setting; it stands in [kafka]",
        ),
        (
            CLUSTER + 'unsafe_acks = "1"',
            "kafka.clusters.backup.unsafe_idempotence: Kafka is idempotent only with",
        ),
        (
            CLUSTER + 'client = { sasl_kerberos_service_name = "k" }',
            "kafka.clusters.backup.client.sasl_kerberos_service_name: not in",
        ),
        ("[kafka]\nclusters = 1", "kafka.clusters: should be a valid dictionary, not 1"),
    ],
)
def test_what_is_wrong_with_a_further_cluster_is_named(toml: Path, text: str, message: str) -> None:
    assert any(line.startswith(message) for line in problems(toml, text))


def test_nobody_could_connect() -> None:
    with pytest.raises(ConfigErrors, match=r"^auth: nobody could connect: .* or set auth.anonymous = true$"):
        load(None)


def test_an_absent_authenticator_is_one_problem(toml: Path) -> None:
    text = '[[auth.chain]]\ntype = "http"\nurl = "http://127.0.0.1/"\n'
    assert problems(toml, text) == ['auth.chain[0].type: "http" is not in this version (0.1.0) [file]']


def test_a_service_named_mqk_does_not_stop_a_pod() -> None:
    names = ["MQK_SERVICE_HOST", "MQK_SERVICE_PORT_MQTT", "MQK_PORT", "MQK_PORT_1883_TCP", "MQK_ADMIN_PORT_80_TCP_ADDR"]
    environ = dict.fromkeys(names, "x") | {"MQK_AUTH__ANONYMOUS": "true"}
    assert load(None, environ=environ).settings.auth.anonymous


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\xff", "is not TOML: .*utf-8"), (b"a = = 1", "is not TOML: .*line 1")],
)
def test_a_file_that_cannot_be_used_is_named(toml: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        toml.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{toml}: {message}"):
        load(toml)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:1883", ("127.0.0.1", 1883)),
        ("[::1]:1883", ("::1", 1883)),
        ("[::]:0", ("::", 0)),
        ("kafka_1.example:9092", ("kafka_1.example", 9092)),
    ],
)
def test_an_address_has_two_parts(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    ["", "1883", ":1883", "a:", "a:65536", "a:-1", "a:1x", "::1:1883", "[::g]:1", "256.1.1.1:1", "a b:1", "a:٣"],
)
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_address(address)


def test_what_weakens_a_promise_is_said(toml: Path) -> None:
    text = '[kafka]\nunsafe_acks = "1"\nunsafe_idempotence = false\n[routing]\npreset = "none"\nmd5_partitions = 257\n'
    warnings = given(toml, text).settings.warnings()
    cluster = CLUSTER + 'unsafe_acks = "0"\nunsafe_idempotence = false\n'
    assert given(toml, cluster).settings.unsafe() == [
        "kafka.clusters.backup.unsafe_acks",
        "kafka.clusters.backup.unsafe_idempotence",
    ]
    assert [warning.split(" is ")[0] for warning in warnings] == [
        "kafka.unsafe_acks",
        "kafka.unsafe_idempotence",
        "routing.md5_partitions",
        "routing.preset",
    ]


def test_rules_of_your_own(toml: Path) -> None:
    text = """
[[routing.rules]]
name = "ota"
filter = "tlink/{pk}/{dn}/ota/#"
topic = "${prefix}ota"
[[routing.rules]]
regex = "^a"
topic = ["x", "y@backup"]
partitioner = "murmur2"
value = "json"
headers = { plant = "${topic.1}" }
payload_bytes_max = 65536
"""
    ota, other = given(toml, text).settings.routing.rules
    assert (ota.name, ota.topic, ota.key, ota.value) == ("ota", ["${prefix}ota"], None, "raw")
    assert (other.topic, other.headers, other.payload_bytes_max) == (["x", "y@backup"], {"plant": "${topic.1}"}, 65_536)


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        ('[[routing.rules]]\nfilter = "a"\n', "routing.rules[0].topic", "has no default"),
        ('[[routing.rules]]\nfilter = "a"\ntopic = []\n', "routing.rules[0].topic", "at least 1 item"),
        ('[[routing.rules]]\nfilter = "a"\ntopic = ["x", "x"]\n', "routing.rules[0].topic", "given twice: x"),
        ('[[routing.rules]]\nfiter = "a"\ntopic = "x"\n', "routing.rules[0].fiter", "mean routing.rules.filter?"),
        ('[[routing.rules]]\nfilter = "a"\ntopic = "x"\nvalue = "xml"\n', "routing.rules[0].value", "'raw', 'json'"),
        ('[routing]\nallowed_topics = ["a/*"]\n', "routing.allowed_topics[0]", "letters, digits"),
        ('[kafka]\ninternal_prefix = "tlink_"\n', "kafka.internal_prefix", "no topic would be left for devices"),
        ('[kafka]\ninternal_prefix = ""\n', "kafka.internal_prefix", "at least 1 character"),
        ('[routing]\nunmatched = "dead_letter"\ndead_letter = false\n', "routing", "needs dead_letter = true"),
    ],
)  # fmt: skip
def test_a_rule_that_is_not_written_as_it_should_be(toml: Path, text: str, setting: str, message: str) -> None:
    (problem,) = problems(toml, text)
    assert problem.startswith(f"{setting}: ")
    assert message in problem


def test_who_may_publish_nothing_is_worth_a_word(toml: Path) -> None:
    (warning,) = given(toml, '[acl]\npublish_default = "deny"\n').settings.warnings()
    assert warning == 'acl.publish_default is "deny" and there is no acl.file: nobody may publish anything'
    settings = given(toml, '[acl]\npublish_default = "deny"\nfile = "acl.conf"\n').settings
    assert (settings.warnings(), settings.acl.file) == ([], toml.parent / "acl.conf")


def test_a_preset_beside_rules_is_worth_a_word(toml: Path) -> None:
    rules = '[[routing.rules]]\nfilter = "a"\ntopic = "x"\n'
    assert given(toml, rules).settings.warnings() == []
    (warning,) = given(toml, '[routing]\npreset = "single"\n' + rules).settings.warnings()
    assert warning.startswith('routing.preset is "single", which counts only while there are no routing.rules')


def test_what_changed_is_named() -> None:
    before = Settings.model_validate({"auth": {"anonymous": True}})
    assert changed(before, before) == set()
    now = before.model_copy(
        update={
            "mqtt": before.mqtt.model_copy(update={"receive_maximum": 7}),
            "listeners": [before.listeners[0].model_copy(update={"bind": "127.0.0.1:1"})],
        }
    )
    assert changed(before, now) == {"mqtt.receive_maximum", "listeners"}


def test_the_longest_topic_is_one_that_kafka_takes(toml: Path) -> None:
    longest = [f"kafka.topic_prefix={'p' * 200}", "status.topic=${prefix}" + "s" * 49]
    assert len(given(toml, "", longest).settings.status_topic()) == 249
    assert problems(toml, "", [f"status.topic={'s' * 50}"])


LOGIN = 'security_protocol = "SASL_SSL"\nsasl_mechanism = '
PLAIN = LOGIN + '"PLAIN"\nsasl_plain_username = "u"\nsasl_plain_password = "hunter2"\n'
OAUTH = (
    LOGIN + '"OAUTHBEARER"\nsasl_oauth_token_endpoint = "https://idp/token"\nsasl_oauth_client_id = "i"\n'
    'sasl_oauth_client_secret = "hunter2"\n'
)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("PLAIN", "SCRAM-SHA-256", 1),
        OAUTH,
        OAUTH + 'sasl_oauth_scope = "s"\nssl_cafile = "ca"',
        PLAIN + 'ssl_cafile = "ca"\nssl_certfile = "c"\nssl_keyfile = "k"\nssl_password = "p"',
        'security_protocol = "SSL"\nssl_certfile = "c"\nssl_check_hostname = false',
    ],
)
def test_what_a_kafka_client_needs_can_be_given(toml: Path, text: str) -> None:
    client = given(toml, f"[kafka.client]\n{text}").settings.kafka.client
    assert client.security_protocol in text
    assert client.ssl_certfile in {None, toml.parent / "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOGIN.partition("\n")[0], "kafka.client.sasl_mechanism: must be given with security_protocol = SASL_SSL"),
        (LOGIN + '"GSSAPI"', 'kafka.client.sasl_mechanism: "GSSAPI" is not in this version (0.1.0) [file]'),
        (PLAIN.replace('"u"', '""'), "kafka.client.sasl_plain_username: string should have at least 1 character, not"),
        (LOGIN + '"PLAIN"', "kafka.client.sasl_plain_username: must be given with sasl_mechanism = PLAIN"),
        (LOGIN + '"OAUTHBEARER"', "kafka.client.sasl_oauth_token_endpoint: must be given with sasl_mechanism = OAUTHB"),
        (
            PLAIN + 'sasl_oauth_scope = "s"',
            "kafka.client.sasl_oauth_scope: goes only with sasl_mechanism = OAUTHBEARER",
        ),
        (
            'ssl_cafile = "ca"',
            "kafka.client.ssl_cafile: goes only with security_protocol = SSL or SASL_SSL or SASL_PLA",
        ),
        ('ssl_certfile = "c"', "kafka.client.ssl_certfile: goes only with security_protocol = SSL or SASL_SSL [file]"),
        (
            'security_protocol = "SSL"\nssl_keyfile = "k"',
            "kafka.client.ssl_keyfile: goes only with ssl_certfile [file]",
        ),
        (
            OAUTH.replace("https:", "ftp:"),
            "kafka.client.sasl_oauth_token_endpoint: should be https://host/path, without",
        ),
        (
            OAUTH.replace("idp", "u:p@idp"),
            "kafka.client.sasl_oauth_token_endpoint: should be https://host/path, without",
        ),
    ],
)
def test_what_a_kafka_client_lacks_is_named(toml: Path, text: str, message: str) -> None:
    found = problems(toml, f"[kafka.client]\n{text}")
    assert any(problem.startswith(message) for problem in found), found
    assert "hunter2" not in str(found)


def test_what_a_kafka_client_sends_in_the_clear_is_said(toml: Path) -> None:
    unsafe = OAUTH.replace("SASL_SSL", "SASL_PLAINTEXT").replace("https:", "http:")
    warnings = given(toml, f"[kafka.client]\n{unsafe}").settings.warnings()
    assert [warning.split(" is ")[0] for warning in warnings] == [
        "kafka.client.security_protocol",
        "kafka.client.sasl_oauth_token_endpoint",
    ]
    unchecked = 'security_protocol = "SSL"\nssl_check_hostname = false'
    (warning,) = given(toml, f"[kafka.client]\n{unchecked}").settings.warnings()
    assert warning.startswith("kafka.client.ssl_check_hostname is false")


def test_secrets_of_a_kafka_client_are_not_shown(toml: Path) -> None:
    loaded = given(toml, f"[kafka.client]\n{OAUTH}")
    shown = {key: value for key, value, _ in loaded.effective()}
    assert shown["kafka.client.sasl_oauth_client_secret"] == "********"
    assert shown["kafka.client.sasl_oauth_token_endpoint"] == "https://idp/token"
    assert "hunter2" not in repr(loaded.settings)


def test_secrets_are_masked() -> None:
    assert mask("kafka.client.sasl_plain_password", "hunter2") == "********"
    assert mask("admin.tokens[0].token_sha256", "ab") == "********"
    assert mask("auth.chain[0].path", "passwd") == "passwd"


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_without_tokens_the_admin_port_is_for_this_machine(bind: str) -> None:
    assert Admin(bind=bind) == load(None, ["auth.anonymous=true", f"admin.bind={bind}"], {}).settings.admin


@pytest.mark.parametrize("bind", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1"])
def test_with_a_token_it_is_for_everybody(toml: Path, bind: str) -> None:
    text = f'[admin]\nbind = "{bind}"\n[[admin.tokens]]\nname = "ops"\ntoken_sha256 = "{"Ab" * 32}"\n'
    admin = given(toml, text).settings.admin
    assert (admin.bind, admin.tokens[0].role, admin.tokens[0].token_sha256) == (bind, "read", "ab" * 32)


def test_a_wrong_secret_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as raised:
        create_model("Client", ssl_password=(int, ...)).model_validate({"ssl_password": "hunter2"})
    (problem,) = explain(raised.value, {})
    assert problem.message.endswith('not "********"')


def test_effective_names_every_setting_once(toml: Path) -> None:
    rows = given(toml, "").effective()
    tables = ("auth.chain[", "routing.rules[", "kafka.clusters", "admin.tokens[")
    documented = {row.key.replace("[]", "[0]") for row in describe() if not row.key.startswith(tables)}
    assert {key for key, _, _ in rows} == documented - {"listeners"}
    assert json.dumps(rows)


def test_an_absent_key_is_not_also_there() -> None:
    known = {row.key.replace("[]", "") for row in describe()}
    assert not known & ABSENT_KEYS
    assert set(ABSENT_VALUES) <= known


def test_limits_leave_room_in_a_kafka_record() -> None:
    assert Settings.model_validate({"auth": {"anonymous": True}, "mqtt": {"publish_bytes_max": PUBLISH_BYTES_CEILING}})
    # A batch of one record: 61 bytes of batch, at most 32 of record and header lengths.
    assert PUBLISH_BYTES_CEILING + 16_384 + 61 + 32 < 1_048_588


#: One key of everything that the public interface has ever named.
INTERFACE = """
[node]
id = "proxy-0"
drain_seconds = 30
agent_bind = "127.0.0.1:8090"
workers = 1
slot_port_step = 1
[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
topic_prefix = "tlink_device_"
internal_prefix = "_mqk_"
create_topics = true
replication_factor = 3
partitions = 12
delivery_timeout_seconds = 120
queue_bytes_max = 67108864
compression = "none"
unsafe_acks = "all"
unsafe_idempotence = true
headers = ["mqtt.topic", "mqtt.clientid"]
[kafka.client]
security_protocol = "PLAINTEXT"
[kafka.clusters.backup]
bootstrap_servers = ["127.0.0.1:9092"]
[[listeners]]
bind = "0.0.0.0:1883"
transport = "tcp"
proxy_protocol_from = []
[listeners.tls]
certificate = "server.crt"
[mqtt]
connect_timeout_seconds = 10
keep_alive_max_seconds = 3600
publish_bytes_max = 1000000
receive_maximum = 128
topic_alias_maximum = 16
[limits]
connections_max = 15000
connections_per_source_max = 0
connects_per_second_max = 1000
publishes_per_second_per_client = 0
bytes_per_second_per_client = 0
[auth]
bind_client_id = false
anonymous = false
[[auth.chain]]
type = "password_file"
path = "passwd"
[acl]
file = "acl.conf"
[routing]
preset = "tlink"
match = "first"
unmatched = "drop"
dead_letter = true
md5_partitions = 12
allowed_topics = []
[[routing.rules]]
topic = "${prefix}ota"
[status]
topic = "${prefix}status"
key = "clientid"
[commands]
group = "mqtt-kafka-proxy"
[events]
kinds = []
[sessions]
expiry_max_seconds = 604800
[admin]
bind = "127.0.0.1:8080"
[[admin.tokens]]
name = "ops"
token_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
[log]
level = "info"
format = "auto"
"""


def test_every_name_of_the_public_interface_is_there_or_said_to_be_absent(toml: Path) -> None:
    toml.write_text(INTERFACE)
    with pytest.raises(ConfigErrors) as raised:
        load(toml)
    assert all(problem.message.startswith("not in this version (0.1.0)") for problem in raised.value.problems)
    named = {problem.setting.replace("[0]", "") for problem in raised.value.problems}
    assert named == {key for key in ABSENT_KEYS if not key.startswith("kafka.client.")}
