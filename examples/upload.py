"""File upload over a WebSocket: progress from the server, pause, and resume after a lost connection.

Run:   python upload.py [PORT [DIRECTORY [BYTES_PER_SECOND]]]
Try:   open http://localhost:8080 and choose a picture. Pause and go on. Stop the server in the middle, and start it
       again with the same DIRECTORY; or reload the page, and choose the file again: the upload goes on where it was.

A page sends chunks, and has at most WINDOW bytes on the way: then it waits until the server has stored some. The name
of the partial file is a secret of the server and the page, and its size is the offset of the next chunk, also after a
restart. At the end the server checks the SHA-256 and the kind of the file. It chooses the name. Without a DIRECTORY,
the files are in a temporary one, which the server removes when it ends.
"""

import hashlib
import json
import os
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync

from pywsapp import App, Connection, MessageComponent, Options, RateLimit, Response

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
CHUNK, WINDOW, MAX_SIZE, MAX_PARTS, KEEP_SECONDS = 64 * 1024, 8 * 64 * 1024, 50 * 1024 * 1024, 100, 3600
KINDS = {b"\x89PNG\r\n": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"%PDF-": ".pdf"}  # by the first bytes
temporary = None if len(sys.argv) > 2 else tempfile.TemporaryDirectory(prefix="uploads-")
DIRECTORY = Path(temporary.name if temporary else sys.argv[2])


@dataclass
class Upload:
    part: Path
    size: int
    sha256: str

    def add(self, chunk: bytes) -> int:
        """Store a chunk; return how many bytes are stored."""
        with self.part.open("ab") as file:
            file.write(chunk)
            return file.tell()

    def finish(self) -> dict[str, Any]:
        """Check the whole file, and move it to where it stays."""
        content = self.part.read_bytes()
        kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
        if kind is None or hashlib.sha256(content).hexdigest() != self.sha256:
            self.part.unlink()
            return {"type": "failed", "message": "The file has changed." if kind else "This is no picture and no PDF."}
        name = secrets.token_hex(8) + kind
        os.replace(self.part, DIRECTORY / name)
        return {"type": "done", "name": name}


class Uploads(MessageComponent):
    def __init__(self) -> None:
        self.uploads: dict[Connection, Upload] = {}

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        upload = self.uploads.get(conn)
        if isinstance(message, bytes) and upload:
            await self.store(conn, upload, message)
        elif isinstance(message, str) and not upload:
            await self.start(conn, message)
        else:
            conn.close(1008, "not now")

    async def start(self, conn: Connection, message: str) -> None:
        """Start an upload, or go on with one whose name the page knows."""
        try:
            wish = json.loads(message)
            part, size, sha256 = part_of(str(wish["upload"])), int(wish["size"]), str(wish["sha256"])
        except (ValueError, TypeError, KeyError, OverflowError):
            conn.close(1007, "not valid")
            return
        older = next((other for other, upload in self.uploads.items() if upload.part == part), None)
        if part is None or not 0 < size <= MAX_SIZE:
            conn.send(json.dumps({"type": "failed", "message": "It is too large." if part else "Try again later."}))
            conn.close()
        elif older:
            older.abort()  # the page has lost it; it stores its last chunk before another one can go on
            conn.close(1013, "connect again")
        else:
            self.uploads[conn] = upload = Upload(part, size, sha256)
            conn.send(json.dumps({"type": "ready", "upload": part.stem, "chunk": CHUNK, "window": WINDOW}))
            await self.store(conn, upload, b"")  # the page learns the offset

    async def store(self, conn: Connection, upload: Upload, chunk: bytes) -> None:
        offset = await run_sync(upload.add, chunk)
        conn.send(json.dumps({"type": "stored", "offset": offset}))
        if offset >= upload.size:
            del self.uploads[conn]
            conn.send(json.dumps(await run_sync(upload.finish)))
            conn.close()

    def on_close(self, conn: Connection) -> None:
        self.uploads.pop(conn, None)


def part_of(name: str) -> Path | None:
    """Return the partial file of a known name, or else a new one; None if there are too many."""
    parts = {part.stem: part for part in DIRECTORY.glob("*.part")}
    for stem in [stem for stem, part in parts.items() if part.stat().st_mtime < time.time() - KEEP_SECONDS]:
        parts.pop(stem).unlink()
    return parts.get(name) or (DIRECTORY / f"{secrets.token_urlsafe(16)}.part" if len(parts) < MAX_PARTS else None)


rate = float(sys.argv[3]) if len(sys.argv) > 3 else 20 * 1024 * 1024
app = App("localhost", int(sys.argv[1]) if len(sys.argv) > 1 else 8080, max_connections_per_address=20)
uploads = RateLimit(Uploads(), bytes_per_second=rate, bytes_burst=4 * CHUNK, per="address")  # above it, messages wait
app.route("/upload", uploads, options=Options(max_message_size=CHUNK))
app.http("/", lambda request: Response.html(PAGE))
if temporary:
    app.on_shutdown(temporary.cleanup)


if __name__ == "__main__":
    app.run()
