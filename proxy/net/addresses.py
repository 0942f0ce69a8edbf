"""What an address says of who can reach it."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine can. A name other than localhost may mean anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
