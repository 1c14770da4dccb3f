"""docs/howto/use-topics-in-python.md: every program on the page runs, and prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.program import Program
from support.serving import GUARD

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "use-topics-in-python.md"
PROGRAMS: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

SERVER = """
from pywsapp import App, NotAuthorized, TopicComponent, rpc

class Rooms(TopicComponent):
    def authorize(self, conn, action, topic):
        return topic != "news" or action == "subscribe"

    @rpc
    def add(self, conn, a: int, b: int) -> int:
        return a + b

    @rpc
    def state(self, conn) -> str:
        return "tea: 2"

class Private(Rooms):
    def authenticate_token(self, token):
        return token.split()[0]

app = App(port=0)
app.route("/live", Rooms())
app.route("/private", Private())
app.history("orders", size=2, seconds=300)
app.history("room:*", size=100, seconds=300)
app.presence("room:*")

@app.on_startup
def fill():
    for number in range(3):
        app.topic("orders").broadcast(f"order {number}")

app.run()
"""

OUTPUT = {
    "message.topic": "room:tea {'text': 'hello'}\n",
    "STATE.write_text": "order 1\norder 2\n",
    "on_lost=reload": "the state is tea: 2\norder 1\n",
    "order-17": "3\nnot_allowed\n",
    "presence_changes": "1 came, 0 left: [{'mood': 'fine'}]\n",
    "get_token": "ana\n",
    "topics.states()": "open \n",
}


#: Runs each of the files; one process for all of them is quicker.
RUN = "import runpy, sys; [runpy.run_path(path, run_name='__main__') and print('--') for path in sys.argv[1:]]"


def test_the_programs_print_what_the_page_says(tmp_path: Path) -> None:
    with Program(SERVER) as server:
        paths = [tmp_path / f"program{number}.py" for number in range(len(PROGRAMS))]
        for path, text in zip(paths, PROGRAMS, strict=True):
            path.write_text(text.replace("localhost:8080", f"localhost:{server.port}"))
        command = [sys.executable, "-W", "error", "-c", RUN, *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD * 2, cwd=tmp_path)
        assert "Traceback" not in server.output
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("--\n")[:-1] == list(OUTPUT.values())


def test_the_outputs_are_in_the_order_of_the_programs() -> None:
    assert [[part in text for part in OUTPUT].index(True) for text in PROGRAMS] == list(range(len(OUTPUT)))
