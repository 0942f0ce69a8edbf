"""Access control in force on this replica: the rules of `acl.file`, read again with everything else that is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from proxy.errors import ConfigError
from proxy.policy.acl import PUBLISH, SUBSCRIBE, Acl, Who, parse_acl


@dataclass(slots=True, frozen=True)
class AccessSettings:
    """`[acl]`. Without a file the defaults decide alone."""

    file: Path | None = None
    publish_default: Literal["allow", "deny"] = "allow"
    subscribe_default: Literal["allow", "deny"] = "deny"
    on_publish_denied: Literal["ack", "close"] = "ack"


class Access:
    """Raises ConfigError when the file cannot be used."""

    def __init__(self, settings: AccessSettings) -> None:
        self.closes = settings.on_publish_denied == "close"
        #: What was denied: messages, and topic filters of SUBSCRIBE packets and of sessions that were looked at again.
        self.denied = {PUBLISH: 0, SUBSCRIBE: 0}
        self._settings = settings
        self._acl = self._read()

    @property
    def rules(self) -> int:
        """How many are in force."""
        return self._acl.rules

    def read_again(self) -> Callable[[], None]:
        """Read the file; what is returned puts it in force. Raises ConfigError when it is not right."""
        return partial(self._use, self._read())

    def allows_publish(self, topic_name: str, who: Who) -> bool:
        return self._acl.allows_publish(topic_name, who)

    def allows_subscribe(self, topic_filter: str, who: Who) -> bool:
        return self._acl.allows_subscribe(topic_filter, who)

    def _use(self, acl: Acl) -> None:
        self._acl = acl

    def _read(self) -> Acl:
        settings = self._settings
        text = "" if settings.file is None else _text(settings.file)
        return parse_acl(
            text,
            str(settings.file),
            publish_default=settings.publish_default == "allow",
            subscribe_default=settings.subscribe_default == "allow",
        )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not UTF-8: {error.reason} at byte {error.start}") from error
