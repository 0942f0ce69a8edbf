"""The page at `/`: one file without a build step, and what a browser may do with it, which is nothing else."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

PAGE: Final = files("proxy.admin").joinpath("static/index.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    """The one script or style of the page, as a policy names it: nothing that is put in beside it runs."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    content = found[1] if found else ""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash('script')}",
            f"style-src {_hash('style')}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


async def show_dashboard(_request: Request) -> Response:
    return HTMLResponse(PAGE, headers=HEADERS)
