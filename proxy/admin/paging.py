"""The `next` of a page, which comes back as its `cursor`: where a list goes on, in letters that a URL may have."""

import base64

from proxy.admin.problems import Problem


def encode_cursor(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode()


def decode_cursor(cursor: str | None) -> str:
    """The place, empty for the first page. Raises Problem."""
    try:
        return base64.urlsafe_b64decode((cursor or "").encode()).decode()
    except ValueError:
        raise not_a_cursor() from None


def not_a_cursor() -> Problem:
    said = "cursor: not the next of a page"
    return Problem(422, said, errors=[said])
