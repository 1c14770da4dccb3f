"""The demo as two and more people see it, in Chromium."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import SHORT_PAUSES, ChatUsers, Page, Server, expect  # noqa: E402 - not before the line above

pytest_plugins = ["support.browser"]

SCRIPTS = [
    "plain text",
    "family 👨‍👩‍👧‍👦, flag 🇵🇹, wave 👋🏽",
    "مرحبا بالعالم",
    "e\u0301 a\u0308 n\u0303 हिन्दी",
    "<b>bold</b> <img src=x onerror=alert(1)> &amp;",
    "two\nlines",
]


def say(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")
    expect(page.locator("#text")).to_have_value("")


def bubbles(page: Page) -> list[str]:
    return page.locator(".bubble").evaluate_all("bubbles => bubbles.map(bubble => bubble.textContent)")  # type: ignore[no-any-return]


def wait_for(page: Page, text: str) -> None:
    page.wait_for_function("text => [...document.querySelectorAll('.bubble')].at(-1)?.textContent === text", arg=text)


def names(page: Page) -> list[str]:
    return page.locator("#people bdi").all_inner_texts()


def test_what_one_types_the_other_reads(users: ChatUsers) -> None:
    ana, ben = users.enter("Ana"), users.enter("Ben")
    for text in SCRIPTS:
        say(ana, text)
        wait_for(ben, text)
    say(ben, "answer")
    for page in (ana, ben):
        wait_for(page, "answer")
    assert bubbles(ana) == bubbles(ben) == [*SCRIPTS, "answer"]
    assert ana.locator(".mine .bubble").count() == len(SCRIPTS)
    assert ben.locator(".mine .bubble").count() == 1
    assert ben.locator("#log").locator("b, img").count() == 0


def test_the_list_of_people_follows_who_comes_and_goes(users: ChatUsers) -> None:
    ana = users.enter("Ana")
    ben = users.enter("Ben")
    expect(ana.locator("#people bdi")).to_have_text(["Ana", "Ben"])
    expect(ana.locator(".line")).to_have_text(["Ben joined"])
    ben.close()
    expect(ana.locator("#people bdi")).to_have_text(["Ana"])
    expect(ana.locator(".line")).to_have_text(["Ben joined", "Ben left"])


def test_the_second_person_with_a_name_gets_a_number(users: ChatUsers) -> None:
    users.enter("Ana")
    other = users.enter("Ana")
    assert names(other) == ["Ana", "Ana 2"]
    expect(other.locator("#my-name")).to_have_text("Ana 2")
    say(other, "I am the second")
    expect(other.locator(".mine .bubble")).to_have_text("I am the second")


def test_a_person_can_take_another_name(users: ChatUsers) -> None:
    ana, ben = users.enter("Ana"), users.enter("Ben")
    ana.get_by_role("button", name="Rename").click()
    ana.get_by_label("Name", exact=True).fill("Anna")
    ana.get_by_label("Name", exact=True).press("Enter")
    expect(ben.locator("#people bdi")).to_have_text(["Anna", "Ben"])


def test_rooms_are_separate_and_have_addresses(users: ChatUsers) -> None:
    ana, ben = users.enter("Ana"), users.enter("Ben", room="M%C3%BAsica%20nova")
    expect(ben.locator("#room-name")).to_have_text("música nova")
    say(ben, "only for this room")
    say(ana, "only for the lobby")
    wait_for(ana, "only for the lobby")
    assert names(ana) == ["Ana"]
    ana.locator("#rooms").get_by_role("link", name="música nova").click()
    wait_for(ana, "only for this room")
    assert bubbles(ana) == ["only for this room"]
    assert ana.url.endswith("#m%C3%BAsica%20nova")
    expect(ben.locator("#people bdi")).to_have_text(["Ana", "Ben"])


def test_a_room_can_be_opened_by_name(users: ChatUsers) -> None:
    ana = users.enter("Ana")
    ana.get_by_label("Open another room").fill("Garden")
    ana.get_by_label("Open another room").press("Enter")
    expect(ana.locator("#room-name")).to_have_text("garden")
    ana.get_by_label("Open another room").fill("no/such")
    ana.get_by_label("Open another room").press("Enter")
    expect(ana.locator("#notice")).to_contain_text("A room's name has")
    expect(ana.locator("#room-name")).to_have_text("garden")


def test_a_room_that_is_opened_before_the_history_has_come(users: ChatUsers) -> None:
    page = users.page()
    held: list[tuple[Any, str]] = []

    def hold_history(socket: Any) -> None:
        server = socket.connect_to_server()
        server.on_message(
            lambda message: (
                held.append((socket, message)) if '"room:lobby"' in message and not held else socket.send(message)
            )
        )

    page.route_web_socket(re.compile("/chat$"), hold_history)
    page.goto(users.server.url)
    page.get_by_label("Name", exact=True).fill("Ana")
    page.get_by_role("button", name="Enter").click()
    expect(page.locator("#room-name")).to_have_text("lobby")
    page.get_by_label("Open another room").fill("Garden")
    page.get_by_label("Open another room").press("Enter")
    expect(page).to_have_url(re.compile("#garden$"))
    [(socket, message)] = held
    socket.send(message)
    expect(page.locator("#status")).to_have_text("Connected")
    expect(page.locator("#room-name")).to_have_text("garden")


def test_a_bad_address_leads_to_the_lobby(users: ChatUsers) -> None:
    page = users.page()
    page.goto(users.server.url + "#no/such%zz")
    page.get_by_label("Name", exact=True).fill("Ana")
    page.get_by_role("button", name="Enter").click()
    expect(page.locator("#room-name")).to_have_text("lobby")


def test_shift_enter_makes_a_line(users: ChatUsers) -> None:
    ana = users.enter("Ana")
    ana.locator("#text").press_sequentially("one")
    ana.locator("#text").press("Shift+Enter")
    ana.locator("#text").press_sequentially("two")
    ana.locator("#text").press("Enter")
    wait_for(ana, "one\ntwo")


def test_the_page_comes_back_by_itself_when_the_server_does(users: ChatUsers, server: Server) -> None:
    ana, ben = users.page(), users.page()
    for page, name in ((ana, "Ana"), (ben, "Ben")):
        page.add_init_script(SHORT_PAUSES)
        users.enter(name, room="ideas", page=page)
    say(ana, "before")
    wait_for(ben, "before")
    server.kill()
    expect(ana.locator("#status")).to_have_text("Reconnecting…")
    ana.locator("#text").fill("written without a connection")
    ana.locator("#text").press("Enter")
    expect(ana.locator("#text")).to_have_value("written without a connection")
    server.start()
    for page in (ana, ben):
        expect(page.locator("#status")).to_have_text("Connected")
        expect(page.locator("#people bdi")).to_have_text(["Ana", "Ben"])
        expect(page.locator("#room-name")).to_have_text("ideas")
    expect(ana.locator("#text")).to_have_value("written without a connection")
    ana.locator("#text").press("Enter")
    wait_for(ben, "written without a connection")
    assert bubbles(ben) == ["before", "written without a connection"]


def test_a_break_shows_no_message_twice_and_loses_none(users: ChatUsers) -> None:
    """The server does not notice the break, so the old connection of Ben is open all the time."""
    ana, ben = users.enter("Ana"), users.page()
    sockets: list[Any] = []

    def connect(socket: Any) -> None:
        sockets.append(socket)
        socket.connect_to_server()
        socket.on_close(lambda code, reason: None)  # without this the server would be told

    ben.add_init_script(SHORT_PAUSES)
    ben.route_web_socket(re.compile("/chat$"), connect)
    users.enter("Ben", page=ben)
    say(ana, "first")
    wait_for(ben, "first")
    ben.context.set_offline(True)
    sockets[0].close(code=4999)
    expect(ben.locator("#offline")).to_be_visible()
    say(ana, "second")
    wait_for(ana, "second")
    ben.context.set_offline(False)
    wait_for(ben, "second")
    assert bubbles(ben) == ["first", "second"]
    expect(ben.locator("#my-name")).to_have_text("Ben")
    expect(ana.locator("#people bdi")).to_have_text(["Ana", "Ben"])
    expect(ana.locator(".line")).to_have_text(["Ben joined"])


def test_a_reloaded_page_knows_who_it_is(users: ChatUsers) -> None:
    ana = users.enter("Ana", room="music")
    say(ana, "hello")
    wait_for(ana, "hello")
    ana.locator("#text").press_sequentially("not sent yet")
    ana.reload()
    expect(ana.locator("#status")).to_have_text("Connected")
    expect(ana.locator("#room-name")).to_have_text("music")
    expect(ana.locator("#text")).to_have_value("not sent yet")
    assert bubbles(ana) == ["hello"]
    assert names(ana) == ["Ana"]


def test_a_hidden_page_counts_what_it_missed(users: ChatUsers) -> None:
    ana, ben = users.enter("Ana"), users.enter("Ben")
    hide = "hidden => Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true })"
    ana.evaluate(hide, True)  # a headless page is never hidden
    say(ben, "psst")
    say(ben, "hey")
    expect(ana).to_have_title("(2) #lobby · pywsapp chat")
    ana.evaluate(hide, False)
    ana.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    expect(ana).to_have_title("#lobby · pywsapp chat")


def test_a_flood_is_refused_and_no_text_is_lost(users: ChatUsers) -> None:
    ana, texts = users.enter("Ana"), [f"m{number}" for number in range(30)]
    ana.evaluate(
        """texts => {
            for (const text of texts) {
                document.getElementById('text').value = text;
                document.getElementById('composer').requestSubmit();
            }
        }""",
        texts,
    )
    expect(ana.locator("#notice")).to_contain_text("Too many messages at once")
    expect(ana.locator("#text")).to_have_value(re.compile("m29$"))
    refused = ana.locator("#text").input_value().split("\n")
    # Entering was the first of ten requests. Each half second allows one more, also while the page sends.
    assert refused[0] not in texts[:9]
    expect(ana.locator(".bubble")).to_have_text([text for text in texts if text not in refused])


def test_the_page_runs_nothing_that_is_not_its_own(users: ChatUsers) -> None:
    ana = users.enter("Ana")
    with ana.expect_console_message():  # Chromium reports the violation there too
        refused = ana.evaluate(
            """() => new Promise(resolve => {
                addEventListener('securitypolicyviolation', event => resolve(event.effectiveDirective));
                const script = document.createElement('script');
                script.textContent = 'document.title = "owned"';
                document.body.append(script);
            })"""
        )
    assert refused == "script-src-elem"
    assert ana.title() == "#lobby · pywsapp chat"
    users.console.clear()


def meet(users: ChatUsers, *, phone: bool) -> tuple[Page, Page]:
    """Let four people talk about something, and give the pages of two of them, one of them dark."""
    size: dict[str, Any] = {"width": 375, "height": 720, "phone": True} if phone else {"height": 820}
    ana, ben = users.enter("Ana", **size), users.enter("Ben", dark=True, **size)
    lena, mohamed = users.enter("Lena"), users.enter("محمد")
    users.enter("Zoë", room="music")
    talk = [
        (ana, "Good morning! Is the new version out?"),
        (ben, "Since eight, on both machines 🎉"),
        (ben, "No errors so far, and a third less memory."),
        (mohamed, "صباح الخير للجميع"),
        (lena, "Then I will write to the others:\n• update at noon\n• nobody needs to reconnect by hand"),
        (ana, "Lovely, thank you! I keep the list of changes."),
        (lena, "👍"),
        (ben, "Coffee?"),
        (ana, "Always ☕"),
    ]
    for page, text in talk:
        say(page, text)
        wait_for(ana, text)
        wait_for(ben, text)
    for page in (ana, ben):
        expect(page.locator("#rooms a", has_text="music")).to_contain_text("1")
        page.mouse.move(0, 0)
    return ana, ben


def test_a_desktop(users: ChatUsers, pictures: Path) -> None:
    ana, ben = meet(users, phone=False)
    ana.screenshot(path=pictures / "chat.png")
    ben.screenshot(path=pictures / "chat-dark.png")
    assert names(ana) == ["Ana", "Ben", "Lena", "محمد"]
    assert ana.locator("#side").is_visible()
    assert not ana.locator("#menu").is_visible()


def test_a_phone(users: ChatUsers, pictures: Path) -> None:
    ana, ben = meet(users, phone=True)
    ana.screenshot(path=pictures / "chat-phone.png")
    ben.screenshot(path=pictures / "chat-phone-dark.png")
    say(ana, "Donaudampfschifffahrtsgesellschaft" * 8)
    expect(ana.locator(".mine .bubble").last).to_be_in_viewport()
    assert ana.evaluate("[document.documentElement.scrollWidth, document.getElementById('log').scrollWidth]") == [
        375,
        375,
    ]
    expect(ana.locator("#text")).to_be_in_viewport(ratio=1)
    expect(ana.get_by_role("button", name="Send")).to_be_in_viewport(ratio=1)
    assert not ana.locator("#side").is_visible()
    ana.locator("#menu").click()
    expect(ana.locator("#people bdi").first).to_be_in_viewport()
    ana.screenshot(path=pictures / "chat-phone-users.png")
    ana.keyboard.press("Escape")
    expect(ana.locator("#side")).not_to_be_visible()
    expect(ana.locator("#menu")).to_be_focused()
