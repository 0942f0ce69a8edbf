"""The configuration of HAProxy for given replicas: `haproxy.cfg` beside this file, with the replicas put in.

What `mqk haproxy-config` prints without being told any is `lb/haproxy.cfg`; a test compares. `lb/README.md` says what
each line is for.
"""

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Final, NamedTuple

from proxy.errors import ConfigError

#: What a replica is called when nobody says, and the ports that it has then.
MQTT_PORT: Final = 2883
ADMIN_PORT: Final = 8080
AGENT_PORT: Final = 8090
#: What the file shows: one replica on each of three hosts.
EXAMPLE: Final = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]", re.ASCII)

#: What both doors for devices have in common. {cn} is how the log has the name in the certificate.
_FRONTEND: Final = """\
    log-format "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc cid=%[var(sess.cid)] cn={cn} \
v=%[var(sess.ver)] uid=%ID"
    unique-id-format %{{+X}}o%Ts%rt%pid
    rate-limit sessions "${{CONN_RATE-1000}}"
    tcp-request connection track-sc0 src table sources
    tcp-request connection reject if {{ sc0_conn_rate(sources) gt "${{SRC_CONN_RATE-100}}" }}
    tcp-request connection reject if {{ sc0_conn_cur(sources) gt "${{SRC_CONN_CUR-5000}}" }}
    tcp-request inspect-delay 5s
    # The shortest CONNECT has 14 bytes. With less, HAProxy up to 3.4 may refuse one that was cut in its length.
    tcp-request content set-var(sess.len) req.len if {{ req.len ge 14 }}
    tcp-request content reject unless {{ req.payload(0,0),mqtt_is_valid }}
    tcp-request content reject unless {{ req.payload(0,0),mqtt_field_value(connect,protocol_name) -m found }}
    tcp-request content set-var(sess.cid) req.payload(0,0),mqtt_field_value(connect,client_identifier)
    tcp-request content set-var(sess.ver) req.payload(0,0),mqtt_field_value(connect,protocol_version)
    tcp-request content set-var(sess.home) var(sess.cid)
    tcp-request content set-var(sess.home) src unless {{ var(sess.cid) -m len gt 0 }}
    default_backend mqtt_proxies"""


class Replica(NamedTuple):
    """Where one replica is reached."""

    host: str
    mqtt_port: int
    admin_port: int
    agent_port: int


def parse_replicas(places: Iterable[str], slots: int, step: int) -> list[Replica]:
    """`HOST[:MQTT[:ADMIN[:AGENT]]]` each; with `slots`, so many on each host, whose ports are `step` apart. Raises
    ConfigError.
    """
    replicas = []
    for place in places:
        host, ports = _parse(place)
        for slot in range(slots):
            replicas.append(Replica(host, *(port + slot * step for port in ports)))
        if max(replicas[-1][1:]) > 65_535:
            raise ConfigError("REPLICA", f"{place}: a port is above 65535")
    if len({(replica.host, replica.mqtt_port) for replica in replicas}) < len(replicas):
        raise ConfigError("REPLICA", "one of them is given twice")
    return replicas


def _parse(place: str) -> tuple[str, tuple[int, int, int]]:
    found = re.fullmatch(rf"({_HOST.pattern})((?::[0-9]{{1,5}}){{0,3}})", place, re.ASCII)
    if found is None:
        raise ConfigError("REPLICA", f"should be HOST, or HOST:MQTT_PORT:ADMIN_PORT:AGENT_PORT, not {place}")
    given = [int(port) for port in found[2].split(":")[1:]]
    mqtt, admin, agent = (*given, *(MQTT_PORT, ADMIN_PORT, AGENT_PORT)[len(given) :])
    return found[1], (mqtt, admin, agent)


def _is_name(host: str) -> bool:
    return not host.startswith("[") and re.fullmatch(r"[0-9.]+", host) is None


def _by_name(host: str) -> str:
    """HAProxy starts although a name is not known yet, and follows it when it moves."""
    return " resolvers names init-addr last,libc,none" if _is_name(host) else ""


def _without(section: str, text: str) -> str:
    return re.sub(rf"# --- {section} ---\n.*?(?=# --- )", "", text, flags=re.DOTALL)


def haproxy_config(replicas: Sequence[Replica], *, tls: bool = True, name: str = "proxy") -> str:
    """The file. Replicas are called NAME-0, NAME-1 …; what places devices is their numeric ids, the order."""
    text = files(__package__).joinpath("haproxy.cfg").read_text()
    if not tls:
        text = _without("MQTT over TLS", text)
    if not any(_is_name(each.host) for each in replicas):
        text = _without("names", text)
    servers = [
        f"    server {name}-{number} {each.host}:{each.mqtt_port} id {number + 1} "
        f"check port {each.admin_port} agent-port {each.agent_port}{_by_name(each.host)}"
        for number, each in enumerate(replicas)
    ]
    admins = [
        f"    server {name}-{number} {each.host}:{each.admin_port} track mqtt_proxies/{name}-{number}"
        f"{_by_name(each.host)}"
        for number, each in enumerate(replicas)
    ]
    text = text.replace("@frontend@", _FRONTEND.format(cn="-"), 1)
    text = text.replace("@frontend@", _FRONTEND.format(cn="%[ssl_c_s_dn(cn)]"))
    return text.replace("@replicas@", "\n".join(servers)).replace("@admins@", "\n".join(admins))
