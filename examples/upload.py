"""File upload over a WebSocket: progress from the server, pause, and resume after a lost connection.

Run:   UPLOAD_DIRECTORY=uploads python upload.py [PORT]
Try:   open http://localhost:8080 and choose a picture. Pause and go on. Stop the server in the middle, and start it
       again with the same directory; or reload the page, and choose the file again: the upload goes on where it was.

A page sends chunks, and has at most WINDOW bytes on the way: then it waits until the server has stored some. The name
of the partial file is a secret of the server and the page, and its size is the offset of the next chunk, also after a
restart. The server checks the kind and the SHA-256 of the file. It chooses the name, so a file never replaces another
one. It holds one chunk of an upload in memory, and stores at most MAX_FILES files of MAX_SIZE bytes. Without
UPLOAD_DIRECTORY, they are in a temporary one, which the server removes when it ends. Run this program in one process.
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

from anyio.to_thread import run_sync

from pywsapp import App, Connection, MessageComponent, Options, RateLimit, Response

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
CHUNK, WINDOW = 64 * 1024, 8 * 64 * 1024
MAX_SIZE, MAX_FILES = 256 * 1024 * 1024, 40
KEEP_SECONDS = 3600  # how long an upload that has stopped can go on
KINDS = {b"\x89PNG\r\n": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"%PDF-": ".pdf"}  # by the first bytes
temporary = None if "UPLOAD_DIRECTORY" in os.environ else tempfile.TemporaryDirectory(prefix="uploads-")
DIRECTORY = Path(temporary.name if temporary else os.environ["UPLOAD_DIRECTORY"])
DIRECTORY.mkdir(exist_ok=True)


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

    def finish(self) -> dict[str, str]:
        """Check the whole file, and move it to where it stays."""
        digest = hashlib.sha256()
        with self.part.open("rb") as file:
            kind = kind_of(file.read(8))
            file.seek(0)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        if kind is None or digest.hexdigest() != self.sha256:
            return self.fail("The file has changed.")
        name = secrets.token_hex(8) + kind
        self.part.rename(DIRECTORY / name)
        return {"type": "done", "name": name}

    def fail(self, message: str) -> dict[str, str]:
        self.part.unlink(missing_ok=True)
        return {"type": "failed", "message": message}


def kind_of(start: bytes) -> str | None:
    return next((kind for begin, kind in KINDS.items() if start.startswith(begin)), None)


def part_of(name: str) -> Path | None:
    """Return the partial file of a known name, or else a new one; None if there are too many files."""
    files = {path.name: path for path in DIRECTORY.iterdir()}
    part = files.get(f"{name}.part")
    if part is None and len(files) < MAX_FILES:
        part = DIRECTORY / f"{secrets.token_urlsafe(16)}.part"
        part.touch()
    return part


class Uploads(MessageComponent):
    def __init__(self) -> None:
        self.uploads: dict[Connection, Upload] = {}

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        upload = self.uploads.get(conn)
        if upload is None:
            await self.start(conn, message)
        elif message == "cancel":
            self.end(conn, upload.fail("The upload was cancelled."))
        elif isinstance(message, bytes):
            await self.store(conn, upload, message)
        else:
            conn.close(1008, "not now")

    async def start(self, conn: Connection, message: str | bytes) -> None:
        """Start an upload, or go on with one whose name the page knows."""
        try:
            wish = json.loads(message)
            name, size, sha256 = str(wish["upload"]), int(wish["size"]), str(wish["sha256"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            conn.close(1007, "not valid")
            return
        if not 0 < size <= MAX_SIZE:
            self.end(conn, {"type": "failed", "message": "The file is empty or too large."})
        elif (part := part_of(name)) is None:
            self.end(conn, {"type": "failed", "message": "The server has no space for more files."})
        elif older := next((other for other, upload in self.uploads.items() if upload.part == part), None):
            older.abort()  # the page has lost it; it stores its last chunk before another one can go on
            conn.close(1013, "connect again")
        else:
            self.uploads[conn] = upload = Upload(part, size, sha256)
            conn.send(json.dumps({"type": "ready", "upload": part.stem, "chunk": CHUNK, "window": WINDOW}))
            await self.store(conn, upload, b"")  # the page learns the offset

    async def store(self, conn: Connection, upload: Upload, chunk: bytes) -> None:
        offset = await run_sync(upload.add, chunk)
        if 0 < offset == len(chunk) and kind_of(chunk) is None:
            self.end(conn, upload.fail("This is no picture and no PDF."))
            return
        conn.send(json.dumps({"type": "stored", "offset": offset}))
        if offset >= upload.size:
            self.end(conn, await run_sync(upload.finish))

    def end(self, conn: Connection, result: dict[str, str]) -> None:
        """Send the result of an upload."""
        self.uploads.pop(conn, None)
        conn.send(json.dumps(result))
        conn.close()

    def on_close(self, conn: Connection) -> None:
        self.uploads.pop(conn, None)

    def remove_old_parts(self) -> None:
        active = {upload.part for upload in self.uploads.values()}
        for part in DIRECTORY.glob("*.part"):
            if part not in active and part.stat().st_mtime < time.time() - KEEP_SECONDS:
                part.unlink()


uploads = Uploads()
rate = float(os.environ.get("BYTES_PER_SECOND", 20 * 1024 * 1024))
limited = RateLimit(uploads, bytes_per_second=rate, bytes_burst=4 * CHUNK, per="address")  # above it, messages wait
app = App("localhost", 8080, max_connections_per_address=20)
app.route("/upload", limited, options=Options(max_message_size=CHUNK))
app.http("/", lambda request: Response.html(PAGE))
app.every(60)(uploads.remove_old_parts)
if temporary:
    app.on_shutdown(temporary.cleanup)


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
