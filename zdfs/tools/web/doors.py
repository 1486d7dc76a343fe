"""Who may ask the page for something: pure, from the headers of a request.

The page listens on loopback, and browsers are full of other people's scripts.  Three things keep
those out:

    Host            must be an address, this machine's name, or one that was given: a script whose
                    name was turned to our address (DNS rebinding) still sends its own name
    Sec-Fetch-Site  a browser says where a question comes from: another site may link to the page,
                    and ask nothing of it
    headers         nothing of the page comes from elsewhere, no script stands in it, no other page
                    may frame it (`HEADERS`)
"""

import ipaddress
import re
from collections.abc import Collection

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
ALWAYS = ("localhost",)
OURS = ("same-origin", "none", "")


def host_of(header: str) -> str:
    """A Host header without its port, in lower case; "": it is none."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", header)
    return found[1].lower().rstrip(".") if found else ""


def host_allowed(header: str, known: Collection[str]) -> bool:
    """Whether a question that was sent to this host may be meant for us."""
    host = host_of(header)
    if host in ALWAYS or host in {name.lower() for name in known}:
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def site_allowed(path: str, fetch_site: str, fetch_mode: str) -> bool:
    """Whether the page that makes the browser ask may do so: ours; others may only lead to it."""
    if fetch_site in OURS:
        return True
    return path == "/" and fetch_mode == "navigate"
