"""Topic names and filters, and text as MQTT wants it."""

import pytest

from proxy.errors import MqttError
from proxy.mqtt.topics import TopicName, decode_text, parse_topic_filter, parse_topic_name


@pytest.mark.parametrize("text", ["", "a", "\ufeffa", "\uffff", "\U0010ffff", "\u0001\u007f", "gerät/温度"])
def test_text_is_what_was_sent(text: str) -> None:
    assert decode_text(text.encode()) == text


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"ab\xff", "not UTF-8: invalid start byte at byte 2"),
        (b"\xed\xa0\x80", "not UTF-8"),  # U+D800
        (b"\xed\xbf\xbf", "not UTF-8"),  # U+DFFF
        (b"\xc0\xaf", "not UTF-8"),  # overlong
        (b"\xf4\x90\x80\x80", "not UTF-8"),  # beyond U+10FFFF
        (b"\xe2\x82", "not UTF-8: unexpected end of data at byte 0"),
        (b"a\x00b", "U+0000"),
    ],
)
def test_text_that_is_none(raw: bytes, why: str) -> None:
    with pytest.raises(MqttError, match=why.replace("+", r"\+")) as refused:
        decode_text(raw)
    assert refused.value.reason == 0x81


@pytest.mark.parametrize("name", ["a", "/", "//", "a b/ c", "$SYS/x", "tlink/a/b/up", "", "\ufeff"])
def test_topic_name(name: str) -> None:
    topic = parse_topic_name(name.encode())
    assert (topic.name, topic.raw, topic.decision) == (name, name.encode(), None)


@pytest.mark.parametrize("name", ["+", "#", "a/+", "a/#", "a+", "#a", "a/b#/c"])
def test_topic_name_with_wildcards(name: str) -> None:
    with pytest.raises(MqttError, match="wildcard") as refused:
        parse_topic_name(name.encode())
    assert refused.value.reason == 0x90


def test_topic_names_are_equal_by_their_bytes() -> None:
    """What was decided for one does not make it another."""
    one, same, other = TopicName("a", b"a"), TopicName("a", b"a"), TopicName("b", b"b")
    same.decision = "somewhere"
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "a"


@pytest.mark.parametrize(
    "text", ["a", "/", "+", "#", "+/+", "/+", "+/", "a/+/b", "a/#", "+/#", "/#", "$share/g/a", " "]
)
def test_topic_filter(text: str) -> None:
    assert parse_topic_filter(text.encode()) == text


@pytest.mark.parametrize("text", ["", "a+", "+a", "a/b+", "a/+b/c", "++", "a#", "#a", "##", "#/a", "a/#/b", "#/", "+#"])
def test_topic_filter_with_wildcards_where_none_may_stand(text: str) -> None:
    with pytest.raises(MqttError) as refused:
        parse_topic_filter(text.encode())
    assert refused.value.reason == 0x8F


@pytest.mark.parametrize("raw", [b"\xff", b"a\x00"])
def test_topic_filter_that_is_no_text(raw: bytes) -> None:
    with pytest.raises(MqttError) as refused:
        parse_topic_filter(raw)
    assert refused.value.reason == 0x81
