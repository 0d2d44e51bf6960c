"""How web servers are asked, so that an answer without end, or packed, takes no more than was asked for."""

import importlib
from typing import Any

WEB = ("http://", "https://")
LARGEST_PAGE = 16_000_000
"""Bytes of the page in which a web server lists a directory."""


def web_settings() -> dict[str, Any]:
    """Return fsspec's settings for a web server: bytes come as they are, and no more than were asked for."""
    aiohttp: Any = importlib.import_module("aiohttp")

    class BoundedResponse(aiohttp.ClientResponse):  # type: ignore[misc]
        """A server's answer, which may have no end."""

        _body: bytes | None

        async def read(self) -> bytes:
            """Return the whole answer; ConnectionError where it is longer than the range that was asked for."""
            begin, _, end = self.request_info.headers.get("Range", "").removeprefix("bytes=").partition("-")
            most = int(end) - int(begin) + 1 if begin and end else LARGEST_PAGE
            content = bytearray(self._body or b"")
            while self.status < 400 and (part := await self.content.readany()):
                content += part
                if len(content) > most:
                    self.close()
                    raise ConnectionError(f"more than {most} bytes came")
            self._body = bytes(content)
            return self._body

    headers = {"Accept-Encoding": "identity"}
    return {"auto_decompress": False, "headers": headers, "response_class": BoundedResponse}
