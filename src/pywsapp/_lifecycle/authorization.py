"""Asking `authorize` what one connection may do with topics, and remembering the answers.

Theory

The functions of a connection are called in their order until one has an opinion; the result is cached for the action
and the topic. The names that a client sends fill the cache, so it is bounded, and the oldest answers are dropped.

An async function takes time, and three things can happen meanwhile:

- Another task asks the same. Then both wait for one `Question`, which the first of them runs in its own task, so that
  the function sees the context and the time limits of the handler. If that task is cancelled, the next one asks anew.
- `reauthorize` is called, because the user has changed. The *generation* is counted then. An answer of an earlier
  generation is not used: the question is asked again.
- The connection subscribes after `on_subscribe`, which can take time too. So the answer is looked up once more right
  before the connection subscribes, without an await in between.

An exception of a function refuses what was asked. It is reported by `on_error`, and not cached.

`reauthorize` asks again for each topic of the connection. A subscription that was allowed ends unless it is allowed
again. One without an opinion, which the server has made on its own, ends only if it is refused.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

import anyio

from pywsapp._authorize import Authorize, Decision, as_decision
from pywsapp._lifecycle.cancellation import raise_if_cancelled
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import ALLOWED, ALREADY_DONE, REFUSED, LazyAwaitable, LazyCoroutine, Permission
from pywsapp._topic_actions import TopicAction
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, NotAuthorized, TopicError
from pywsapp.topics.delivery import RECOVERING
from pywsapp.topics.names import check_name
from pywsapp.topics.topic import Topic

logger = logging.getLogger("pywsapp")

#: Answers that are cached for a connection, if it may not subscribe to more topics than this allows for.
MIN_CACHED = 512
#: Answers for each topic of `Options.max_topics`: one for each action.
CACHED_FOR_EACH = 4
#: How often a question is asked again because `reauthorize` was called meanwhile.
_MAX_ROUNDS = 100

Key = tuple[TopicAction, str]
#: The actions of a connection on one topic, with the decisions of `authorize`.
Uses = dict[TopicAction, Decision]


class Question:
    """A question whose answer takes time.

    Args:
        action: what is asked about.
        topic: the name of the topic.
        generation: the generation in which it was asked.

    Attributes:
        asked: how many functions were called.
        awaitable: what the last one of them returned, until it is awaited.
        running: set when the task that awaits it goes on; None if no task does.
        task: the task that awaits it.
        is_answered: whether `decision` is the answer.
        is_failed: whether a function raised an exception.
        decision: the answer.
    """

    __slots__ = (
        "__weakref__",
        "action",
        "asked",
        "awaitable",
        "decision",
        "generation",
        "is_answered",
        "is_failed",
        "running",
        "task",
        "topic",
    )

    def __init__(self, action: TopicAction, topic: str, generation: int) -> None:
        self.action: TopicAction = action
        self.topic = topic
        self.generation = generation
        self.asked = 0
        self.awaitable: Awaitable[Decision] | None = None
        self.running: anyio.Event | None = None
        self.task: int | None = None
        self.is_answered = self.is_failed = False
        self.decision: Decision = None


class TopicAuthorization:
    """The topics that `authorize` allows one connection. The subscriptions of the connection create it.

    Args:
        conn: the connection.
        authorizers: the functions to call, the most specific one first.
        on_subscribe: the hook of the component.
        report: reports an exception to the component; raises nothing but what ends the program.
        start_soon: starts a task that ends with the connection's host.
        uses: the topics of the connection, with what they are used for.
        max_cached: how many answers are cached.
    """

    __slots__ = (
        "_authorizers",
        "_conn",
        "_decisions",
        "_found",
        "_generation",
        "_is_async",
        "_max_cached",
        "_on_subscribe",
        "_questions",
        "_recheck",
        "_report",
        "_start_soon",
        "_uses",
    )

    def __init__(
        self,
        conn: Connection,
        authorizers: Sequence[Authorize],
        on_subscribe: Callable[[Connection, Topic], Any],
        report: Callable[[BaseException], None],
        start_soon: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        uses: dict[Topic, Any],
        max_cached: int = MIN_CACHED,
    ) -> None:
        self._conn = conn
        self._authorizers = authorizers
        self._on_subscribe = on_subscribe
        self._report = report
        self._start_soon = start_soon
        self._uses = uses
        self._max_cached = max_cached
        self._decisions: dict[Key, Decision] = {}
        self._questions: WeakValueDictionary[Key, Question] | None = None  # those that a task can still await
        self._found: Uses = {}  # the answers of the last check
        self._generation = 0
        self._is_async = False
        self._recheck: anyio.Event | None = None

    # -- what connections and topics call ----------------------------------------------------------------------------

    def may(self, action: TopicAction, topic: str) -> LazyCoroutine[bool]:
        """See `Connection.may`."""
        if type(topic) is str and (action, topic) in self._decisions:  # it was checked then
            return ALLOWED if self._decisions[action, topic] else REFUSED
        if isinstance(topic, Topic):
            raise ConfigurationError(f"write the name, {topic.name!r}, not the topic")
        try:
            topic = check_name(topic)
        except TopicError:
            return REFUSED
        found = self._decide(action, topic)
        if isinstance(found, Question):
            return Permission(lambda: self._may_later(found))
        return ALLOWED if found else REFUSED

    async def _may_later(self, question: Question) -> bool:
        return await self._resolve(question.action, question.topic) is True

    def ask_subscribe(self, topic: Topic, *, history: bool) -> Awaitable[None] | None:
        """Check whether the connection may subscribe to a topic, then call `on_subscribe`.

        Args:
            topic: the topic.
            history: ask also whether it may read the topic's history.

        Returns:
            what must be awaited before it subscribes; None if there is nothing.

        Raises:
            NotAuthorized: it may not.
            Exception: what `on_subscribe` raised.
        """
        actions: tuple[TopicAction, ...] = ("history", "subscribe") if history else ("subscribe",)
        question = self._check_now(topic.name, actions)
        if question is not None:
            return LazyAwaitable(functools.partial(self._ask_first, topic, actions, question))
        result = self._on_subscribe(self._conn, topic)
        if isinstance(result, Awaitable):
            return LazyAwaitable(functools.partial(self._ask_again, topic, actions, result))
        question = self._check_now(topic.name, actions)
        return None if question is None else LazyAwaitable(functools.partial(self._ask_again, topic, actions, question))

    async def _ask_first(self, topic: Topic, actions: Sequence[TopicAction], question: Question) -> None:
        await self._check(topic.name, actions)
        await self._ask_again(topic, actions, self._on_subscribe(self._conn, topic))

    async def _ask_again(self, topic: Topic, actions: Sequence[TopicAction], held: Any) -> None:
        if isinstance(held, Awaitable):  # of on_subscribe
            await held
        await self._check(topic.name, actions)

    def subscribed(self, topic: Topic) -> None:
        """Note the answers for a topic that the connection subscribes to, right after the last check."""
        self._uses[topic], self._found = self._found, {}

    def ask_presence(self, topic: Topic) -> Awaitable[None] | None:
        """Check whether the connection may be present in a topic that it subscribes to.

        Returns:
            what must be awaited; None if there is nothing.

        Raises:
            NotAuthorized: it may not.
        """
        question = self._check_now(topic.name, ("presence",))
        if question is not None:
            return LazyAwaitable(functools.partial(self._ask_presence, topic, question))
        self._note_presence(topic)
        return None

    async def _ask_presence(self, topic: Topic, question: Question) -> None:
        await self._check(topic.name, ("presence",))
        self._note_presence(topic)

    def _note_presence(self, topic: Topic) -> None:
        if topic in self._uses:
            self._uses[topic].update(self._found)
        self._found = {}

    # -- checking again ----------------------------------------------------------------------------------------------

    def reauthorize(self) -> LazyCoroutine[None]:
        """See `Connection.reauthorize`."""
        self._forget()
        if self._recheck is None:
            held = self._recheck_now()
            if held is None:
                return ALREADY_DONE
            self._recheck = anyio.Event()
            self._start_soon(functools.partial(self._recheck_all, held))
        return LazyAwaitable(self._recheck.wait)

    def _forget(self) -> None:
        self._generation += 1
        self._decisions.clear()
        questions, self._questions = self._questions, None
        for question in () if questions is None else list(questions.values()):
            if question.running is None and inspect.iscoroutine(question.awaitable):
                question.awaitable.close()  # it will not be awaited, and need not warn of that

    def _recheck_now(self) -> list[Question] | None:
        """Check all uses, if no function is known to take time; return what is left to await, None if nothing is."""
        if self._is_async and self._uses:
            return []
        held = []
        for topic, action in list(self._used()):
            found = self._decide(action, topic.name)
            if isinstance(found, Question):
                held.append(found)
            else:
                self._apply(topic, action, found)
        return held or None

    async def _recheck_all(self, held: list[Question]) -> None:
        """Check all uses until no other check was requested meanwhile.

        Args:
            held: questions that were asked already, which this keeps from being dropped.
        """
        generation = None
        try:
            while generation != self._generation:
                generation = self._generation
                for topic, action in list(self._used()):
                    try:
                        decision = await self._resolve(action, topic.name)
                    except BaseException as exc:
                        raise_if_cancelled(exc)
                        self._report(exc)
                        decision = False
                    self._apply(topic, action, decision)
        finally:
            assert self._recheck is not None
            self._recheck.set()
            self._recheck = None

    def _used(self) -> Iterator[tuple[Topic, TopicAction]]:
        for topic, uses in self._uses.items():
            for action in uses:
                if action != "history" or topic._subscribers.get(self._conn) is RECOVERING:
                    yield topic, action

    def _apply(self, topic: Topic, action: TopicAction, decision: Decision) -> None:
        """End a use of a topic that is not allowed any more."""
        uses: Uses = self._uses.get(topic, {})
        if action not in uses or decision or (decision is None and not uses[action]):
            return
        logger.debug(
            "%r: %s",
            self._conn,
            NotAuthorized(action, topic.name),
            extra=log_fields("topic.not_authorized", self._conn, topic=topic.name, action=action),
        )
        try:
            if action == "presence" and not topic._registry.presence.is_shown(topic.name, self._conn):
                del uses[action]
                topic.untrack(self._conn)
            else:
                topic.remove(self._conn)
        except BaseException as exc:  # of on_unsubscribe
            self._report(exc)

    # -- asking ------------------------------------------------------------------------------------------------------

    def _check_now(self, topic: str, actions: Sequence[TopicAction]) -> Question | None:
        """Check what is known at once; return the first question that takes time.

        Raises:
            NotAuthorized: an action is refused.
        """
        self._found = {}
        for action in actions:
            found = self._decide(action, topic)
            if isinstance(found, Question):
                return found
            if found is False:
                raise NotAuthorized(action, topic)
            self._found[action] = found
        return None

    async def _check(self, topic: str, actions: Sequence[TopicAction]) -> None:
        """Check with the answers of one generation. Code that follows this without an await can rely on them.

        Raises:
            NotAuthorized: an action is refused.
        """
        generation = None
        found: Uses = {}
        while generation != self._generation:
            generation = self._generation
            for action in actions:
                decision = found[action] = await self._resolve(action, topic)
                if decision is False:
                    raise NotAuthorized(action, topic)
        self._found = found

    def _decide(self, action: TopicAction, topic: str) -> Decision | Question:
        """Return the answer, or the question if the answer takes time."""
        key = action, topic
        decisions = self._decisions
        if key in decisions:
            return decisions[key]
        if self._questions is not None and (pending := self._questions.get(key)) is not None:
            return pending
        question = Question(action, topic, self._generation)
        self._ask(question)
        if question.is_answered:
            self._remember(question)
            return question.decision
        self._is_async = True
        if self._questions is None:
            self._questions = WeakValueDictionary()
        self._questions[key] = question
        return question

    async def _resolve(self, action: TopicAction, topic: str) -> Decision:
        """Return the answer of the present generation.

        Raises:
            ConfigurationError: there is none, since `authorize` itself changes the user again and again.
        """
        for _ in range(_MAX_ROUNDS):
            found = self._decide(action, topic)
            if not isinstance(found, Question):
                return found
            await self._wait(found)
            if found.is_answered and found.generation == self._generation:
                return found.decision
        raise ConfigurationError("authorize must not call conn.refresh_user and conn.reauthorize")

    async def _wait(self, question: Question) -> None:
        """Wait until a question is answered, or the task that awaits its functions was cancelled."""
        if question.is_answered:
            return
        this_task = anyio.get_current_task().id
        if question.running is not None:
            if question.task == this_task:
                raise ConfigurationError(f"authorize asks about {question.topic!r} while it is asked about it")
            await question.running.wait()
            return
        question.running, question.task = anyio.Event(), this_task
        try:
            while question.awaitable is not None:
                await self._await(question)
        finally:
            question.running.set()
            if question.is_answered:
                self._remember(question)
            key = question.action, question.topic
            if self._questions is not None and self._questions.get(key) is question:
                del self._questions[key]

    def _remember(self, question: Question) -> None:
        if question.is_failed or question.generation != self._generation:
            return
        decisions = self._decisions
        decisions[question.action, question.topic] = question.decision
        if len(decisions) > self._max_cached:
            del decisions[next(iter(decisions))]

    def _ask(self, question: Question) -> None:
        """Call the functions that are left, up to one that has an opinion or takes time."""
        while not question.is_answered and question.asked < len(self._authorizers):
            authorize = self._authorizers[question.asked]
            question.asked += 1
            try:
                result = authorize(self._conn, question.action, question.topic)
                if isinstance(result, Awaitable):
                    question.awaitable = result
                    return
                question.decision = as_decision(authorize, result)
            except Exception as exc:
                self._failed(question, exc)
            question.is_answered = question.decision is not None
        question.is_answered = True

    async def _await(self, question: Question) -> None:
        """Await what the last called function returned, then call those that are left."""
        assert question.awaitable is not None
        awaitable, question.awaitable = question.awaitable, None
        try:
            question.decision = as_decision(self._authorizers[question.asked - 1], await awaitable)
        except Exception as exc:
            self._failed(question, exc)
        question.is_answered = question.decision is not None
        self._ask(question)

    def _failed(self, question: Question, exc: BaseException) -> None:
        self._report(exc)
        question.decision, question.is_failed = False, True
