"""Batches: whatever a client sends, reading ends with a batch or `InvalidBatch`, and what was read is what was sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp.topics.fallback.batch import MAX_MESSAGES, MAX_NUMBER, Batch, InvalidBatch, batch_of, read_batch

pytestmark = pytest.mark.once

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
batches = st.builds(
    Batch,
    st.integers(1, MAX_NUMBER),
    st.lists(texts | st.binary(max_size=20), max_size=5).map(tuple),
    st.none() | st.just(1000) | st.integers(3000, 4999),
)
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["number", "messages", "close", "base64", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(batches)
def test_a_batch_is_read_as_it_was_written(batch: Batch) -> None:
    assert read_batch(json.dumps(batch.fields()).encode()) == batch


@given(values)
def test_other_values(value: Any) -> None:
    try:
        batch = batch_of(value)
    except InvalidBatch as exc:
        assert str(exc).isprintable()
    else:
        assert 0 < batch.number <= MAX_NUMBER
        assert len(batch.messages) <= MAX_MESSAGES
        for message in batch.messages:
            assert isinstance(message, bytes) or message.encode().decode() == message


@given(st.binary(max_size=60))
def test_any_bytes(body: bytes) -> None:
    try:
        read_batch(body)
    except InvalidBatch:
        pass
