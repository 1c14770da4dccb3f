"""The pages that add an app to a FastAPI, a Django and a Flask site: their files run, and browsers log in."""

from __future__ import annotations

import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import expect  # noqa: E402 - not before the line above
from support.program import Program  # noqa: E402
from support.services import free_port  # noqa: E402

pytest_plugins = ["support.browser"]
pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]  # programs that start one after another

HOWTO = Path(__file__).parent.parent.parent / "docs" / "howto"
WAIT_SECONDS = 40
USER, PASSWORD = "ana", "tea"
CREATE_USER = """
import mysite.logout, mysite.notifications
from django.contrib.auth import get_user_model
get_user_model().objects.create_superuser("ana", "ana@example.com", "tea")
"""


def blocks(page: str, language: str) -> list[str]:
    text = (HOWTO / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def write_files(page: str, directory: Path, ports: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write the files of a page; a block that begins with no name of a file is none.

    Args:
        page: its name.
        directory: where they are written.
        ports: the ports of the page, and those that replace them.
    """
    for block in blocks(page, "python"):
        named = re.match(r"# (\S+\.py)\n(.*)", block, re.DOTALL)
        if named is not None:
            text = named[2].replace("1000 + Math.random() * 4000", "100")
            for documented, real in ports.items():
                text = text.replace(documented, real)
            (directory / named[1]).write_text(text, encoding="utf-8")


def run(command: str, directory: Path) -> None:
    """Run one command of a page to its end."""
    program, *arguments = command.split()
    if program == "echo":
        text, path = re.fullmatch(r"echo '(.*)' >> (\S+)", command).groups()  # type: ignore[union-attr]
        with (directory / path).open("a") as file:
            file.write(text + "\n")
        return
    started = (
        arguments if program == "python" else [str(shutil.which(program, path=Path(sys.executable).parent)), *arguments]
    )
    with Program(started, cwd=directory) as running:
        assert running.end(WAIT_SECONDS) == 0, running.output


@contextmanager
def served(command: str, directory: Path, port: int) -> Iterator[str]:
    """Run the command of a page that serves the site on a port; the value is the URL of the site."""
    with Program(["-m", *command.replace("8000", str(port)).split()], cwd=directory) as program:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and program.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                time.sleep(0.02)
            else:
                break
        else:
            pytest.fail(f"nothing listens on port {port}:\n{program.output}")
        yield f"http://localhost:{port}"


def log_in(page: Any, url: str, user: str, password: str, name: str = "name") -> None:
    page.goto(url)
    page.locator(f"[name={name}]").fill(user)
    page.locator("[name=password]").fill(password)
    page.locator("[name=password]").press("Enter")
    expect(page.locator("body")).to_contain_text(f"hello {user}")


@pytest.fixture
def visitors(browser: Any) -> Iterator[Any]:
    """Return a function that makes a browser with cookies of its own."""
    contexts = []

    def make() -> Any:
        contexts.append(browser.new_context())
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()


def test_a_route_of_fastapi_reaches_one_user(tmp_path: Path, visitors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "add-real-time-to-a-fastapi-site.md"
    write_files(page, tmp_path)
    commands = "".join(blocks(page, "sh")).splitlines()
    [exported] = [line for line in commands if line.startswith("export ")]
    monkeypatch.setenv(*exported.removeprefix("export ").split("="))
    with served(commands[-1], tmp_path, free_port()) as url:
        ana, ben = visitors(), visitors()
        home, other, friend = ana.new_page(), ana.new_page(), ben.new_page()
        log_in(home, url, USER, PASSWORD)
        other.goto(url)
        expect(other.locator("body")).to_contain_text("hello ana")
        log_in(friend, url, "ben", "milk")
        friend.locator("[name=user]").fill("ana")
        friend.get_by_role("button", name="Order").click()
        for tab in home, other:
            expect(tab.locator("body")).to_contain_text("ben has ordered a cake for you")
        other.get_by_role("button", name="Log out").click()
        for tab in other, home:
            expect(tab.locator("[name=password]")).to_be_visible()
        expect(friend.locator("body")).to_contain_text("hello ben")
        assert "has ordered" not in friend.locator("body").inner_text()


def test_a_saved_model_of_django_reaches_its_owner(tmp_path: Path, visitors: Any) -> None:
    page = "add-real-time-to-a-django-site.md"
    commands = "".join(blocks(page, "sh")).splitlines()
    for command in commands:
        if command.startswith(("django-admin", "python manage.py startapp", "echo")):
            run(command, tmp_path)
    write_files(page, tmp_path)
    for command in commands:
        if re.match(r"python manage.py (makemigrations|migrate)", command):
            run(command, tmp_path)
    with Program(["manage.py", "shell", "-c", CREATE_USER], cwd=tmp_path) as created:
        assert created.end(WAIT_SECONDS) == 0, created.output
    with served(commands[-1], tmp_path, free_port()) as url:
        ana = visitors()
        home, admin = ana.new_page(), ana.new_page()
        log_in(home, url, USER, PASSWORD, "username")
        admin.goto(url + "/admin/orders/order/add/")
        admin.locator("[name=owner]").select_option(label="ana")
        admin.get_by_role("button", name="Save", exact=True).click()
        expect(home.locator("body")).to_contain_text("order 1 is new")


def test_a_view_of_flask_reaches_one_user(tmp_path: Path, visitors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page, port, realtime_port = "add-real-time-to-a-flask-site.md", free_port(), free_port()
    write_files(page, tmp_path, {"8000": str(port), "8080": str(realtime_port)})
    commands = "".join(blocks(page, "sh")).splitlines()
    exported = {line.removeprefix("export ") for line in commands if line.startswith("export ")}
    assert len(exported) == 1, "both terminals have the same"
    for variable in exported.pop().split():
        monkeypatch.setenv(*variable.split("="))
    [command] = [line for line in commands if line.startswith("flask ")]
    with served(command, tmp_path, port) as url, Program(["realtime.py"], cwd=tmp_path) as realtime:
        assert realtime.port == realtime_port
        home, friend = visitors().new_page(), visitors().new_page()
        log_in(home, url, USER, PASSWORD)
        log_in(friend, url, "ben", "milk")
        friend.locator("[name=user]").fill("ana")
        friend.get_by_role("button", name="Order").click()
        expect(home.locator("body")).to_contain_text("ben has ordered a cake for you")
        assert "has ordered" not in friend.locator("body").inner_text()
