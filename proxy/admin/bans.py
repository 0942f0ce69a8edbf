"""The list of bans."""

import bisect
from typing import Final

from proxy.admin.api import Asked
from proxy.admin.clients import timestamp
from proxy.admin.models import BanOut, BansOut
from proxy.admin.paging import decode_cursor, encode_cursor
from proxy.admin.parts import Parts
from proxy.admin.problems import Problem
from proxy.flows.bans import BanListFull, BansUnwritable
from proxy.policy.bans import ADDRESS, KINDS, Ban, normal_address

_UNKNOWN: Final = "this replica has not read the bans yet"


async def list_bans(parts: Parts, asked: Asked) -> BansOut:
    """By kind and value; the cursor is the last one's key."""
    if not parts.bans.known.is_set():
        raise Problem(503, _UNKNOWN, headers={"Retry-After": "1"})
    bans = parts.bans.in_force()
    after = decode_cursor(asked.query.cursor).encode()
    start = bisect.bisect_right(bans, after, key=lambda ban: ban.key)
    page = bans[start : start + asked.query.limit]
    following = encode_cursor(page[-1].key.decode()) if start + len(page) < len(bans) else None
    return BansOut(bans=[_shown(ban) for ban in page], next=following)


async def set_ban(parts: Parts, asked: Asked) -> BanOut:
    body = asked.body
    try:
        return _shown(await parts.bans.set(body.kind, body.value, body.seconds, body.reason, asked.who))
    except BanListFull as error:
        raise Problem(409, str(error)) from None
    except BansUnwritable as error:
        raise Problem(503, str(error), headers={"Retry-After": "5"}) from None


async def lift_ban(parts: Parts, asked: Asked) -> None:
    kind, value = next((each for each in KINDS if each == asked.path["kind"]), None), asked.path["value"]
    if kind is None:
        raise Problem(404, f"there are bans of {', '.join(KINDS)}, and no others")
    try:
        value = normal_address(value) if kind == ADDRESS else value
        lifted = await parts.bans.lift(kind, value)
    except ValueError:
        lifted = None
    except BansUnwritable as error:
        raise Problem(503, str(error), headers={"Retry-After": "5"}) from None
    if lifted is None:
        raise Problem(404, f"{kind} {value} is not banned")


def _shown(ban: Ban) -> BanOut:
    return BanOut(
        kind=ban.kind,
        value=ban.value,
        reason=ban.reason,
        by=ban.by,
        since=timestamp(ban.since_ms),
        expires_at=timestamp(ban.expires_ms) if ban.expires_ms else None,
    )
