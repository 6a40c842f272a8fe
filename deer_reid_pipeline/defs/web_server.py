"""Dagster's web server as `serve` starts it: what a page of another site asks for is refused.

A browser sends any page's requests to 127.0.0.1, and a GET of /graphql can start a run. On a server nginx refuses them
(deploy/proxy), by the same rules. It knows no users and no passwords.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dagster_webserver import cli

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ELSEWHERE = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site that a browser gives what a page of another site asks for."""

COMMANDS = ("/graphql", "/report_asset_")
"""Paths that are no pages, so that not even a link may lead to them."""

REFUSED = b"A page of another site asked for this. Open the UI itself.\n"


class OwnPagesOnly:
    """An ASGI application that passes on what its own pages, links and programs ask for, and refuses the rest."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, to a websocket before it is open, where a page of another site asks."""
        if scope["type"] == "lifespan" or not from_elsewhere(scope):
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(REFUSED))]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSED})


def from_elsewhere(scope: Scope) -> bool:
    """Whether a browser says that a page of another site asks, other than by a link to a page."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    origin = headers.get("origin")
    own = origin is None or origin.partition("://")[2] == headers.get("host")
    if own and headers.get("sec-fetch-site") not in ELSEWHERE:
        return False
    link = scope["type"] == "http" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return not link or scope["path"].startswith(COMMANDS)


def main() -> None:
    """What `python -m dagster_webserver` does, with the same arguments, behind `OwnPagesOnly`."""
    made = cli.create_app_from_workspace_process_context

    def guarded(*arguments: Any, **options: Any) -> OwnPagesOnly:
        return OwnPagesOnly(made(*arguments, **options))

    cli.create_app_from_workspace_process_context = guarded  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    main()
