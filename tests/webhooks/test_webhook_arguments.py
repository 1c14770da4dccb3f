"""`App.webhook` checks its arguments; the signature, the queue and the pauses follow their rules."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pywsapp import App, ConfigurationError, WebhookOptions
from pywsapp.webhooks.delivery import Answer, Attempts, Outcome, outcome_of
from pywsapp.webhooks.signature import keys_of, sign

pytestmark = pytest.mark.once
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The values are those of the documentation of Svix, whose format it is."""
    signature = sign(keys_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    both = sign(keys_of([b"0123456789abcdef", SECRET]), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b"{}").split(" ")
    assert len(both) == len(set(both)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "site.example"}, "must be like 'https://site.example/hooks'"),
        ({"url": "ftp://site.example"}, "must be like 'https://site.example/hooks'"),
        ({"url": "https://"}, "must be like 'https://site.example/hooks'"),
        ({"url": "https://site.example:99999"}, "must be like 'https://site.example/hooks'"),
        ({"url": "https://[::1/"}, "must be like 'https://site.example/hooks'"),
        ({"url": "https://site.example/\r\nx: y"}, "without spaces"),
        ({"url": 5}, "is a str"),
        ({"url": "http://site.example/hooks"}, "allow_http=True if the network is yours"),
        ({"url": "http://localhost.example/hooks"}, "allow_http=True if the network is yours"),
        ({"url": "https://ana:pass@site.example/hooks"}, "has a user, a password or a fragment"),
        ({"url": "https://site.example/hooks#x"}, "has a user, a password or a fragment"),
        ({"secret": "short-hidden"}, "at least 16 bytes"),
        ({"secret": "whsec_no-base64-hidden"}, "but no base64 follows"),
        ({"secret": []}, "needs a secret"),
        ({"secret": None}, "a str or bytes, not NoneType"),
        ({"secret": [None]}, "a str or bytes, not NoneType"),
        ({"events": ["topic_full"]}, "no event 'topic_full', only topic_occupied, "),
        ({"events": "topic_occupied"}, r'is a list with at least one name, such as \["topic_occupied"\]'),
        ({"events": []}, "is a list with at least one name"),
        ({"topics": "room:*"}, r'is a list with at least one name, such as \["room:\*"\]'),
        ({"topics": ["room*"]}, "is not a topic pattern"),
        ({"options": {"timeout": 5}}, "must be a WebhookOptions"),
    ],
)
def test_a_mistake_is_explained(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"url": "https://site.example/hooks", "secret": SECRET, **arguments}
    with pytest.raises(ConfigurationError, match=message) as caught:
        App().webhook(**given)
    assert "hidden" not in str(caught.value)
    assert "ana:pass" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), True, "5", None])
def test_numbers_are_checked(value: Any) -> None:
    for name in ("timeout", "max_batch"):
        with pytest.raises(ConfigurationError, match=f"WebhookOptions.{name} must be a"):
            WebhookOptions(**{name: value})
    with pytest.raises(ConfigurationError, match="max_batch must be a whole number"):
        WebhookOptions(max_batch=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="when_full must be a WhenFull"):
        WebhookOptions(when_full=value)
    with pytest.raises(ConfigurationError, match="cap must not be smaller"):
        WebhookOptions(base=5, cap=1)


def test_http_is_for_networks_that_are_named(caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    for url in ("http://localhost:9000/hooks", "http://127.0.0.1/hooks", "http://[::1]/hooks", "https://site.example"):
        app.webhook(url, secret=SECRET)
    assert caplog.messages == []
    hook = app.webhook("http://10.0.0.8/hooks?token=x", secret=SECRET, allow_http=True)
    line = "webhook http://10.0.0.8/hooks is not encrypted (allow_http=True): a network can read its events"
    assert caplog.record_tuples == [("pywsapp", logging.WARNING, line)]
    assert repr(hook) == "<Webhook http://10.0.0.8/hooks>"
    assert hook.stats == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ([200, 202, 204, 299], Outcome.DELIVERED),
        ([408, 429, 500, 502, 503, 599], Outcome.FAILED),
        ([410], Outcome.GONE),
        ([301, 302, 307, 308, 400, 401, 403, 404, 413, 425], Outcome.REFUSED),
    ],
)
def test_what_a_status_means(statuses: list[int], outcome: Outcome) -> None:
    assert {outcome_of(status) for status in statuses} == {outcome}


def test_pauses_grow_and_end() -> None:
    options = WebhookOptions(base=1, cap=8, max_retry_after=100, max_attempts=8, retry_seconds=200)
    attempts = Attempts(options, 0, lambda _, bound: bound)
    assert [attempts.pause(0, None, 0) for _ in range(5)] == [1, 2, 4, 8, 8]
    assert attempts.pause(0, Answer(429, "30"), 0) == 38
    assert attempts.pause(0, Answer(503, "Thu, 01 Jan 1970 02:00:00 GMT"), 0) == 108
    assert attempts.pause(0, None, 0) is None, "there were 8 attempts"
    attempts = Attempts(options, 0, lambda low, _: low)
    assert attempts.pause(150, Answer(503, "40"), 0) == 40
    assert attempts.pause(150, Answer(503, "60"), 0) is None, "it would begin after 200 seconds"
