/** The hooks, in React with its test renderer. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { createElement, StrictMode } from "react";
import { act, create } from "react-test-renderer";

import { useClient, useClientState, useTopic } from "../../src/pywsapp/browser/pywsapp-react.js";
import { install, pass, settle, socket, sockets, uninstall } from "./fake.mjs";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const roots = [];

beforeEach(install);
afterEach(async () => {
  for (const root of roots.splice(0)) await act(async () => root.unmount());
  uninstall();
});

async function render(element) {
  let root;
  await act(async () => {
    root = create(element);
    await settle();
  });
  roots.push(root);
  return root;
}

const change = (what) => act(async () => {
  await what();
  await settle();
});
const texts = (root) => root.root.findAllByType("p").map(({ props: { children } }) => children);

function Room({ client, topic, options }) {
  const { messages, present, state, isLost, error } = useTopic(client, topic, options);
  const fields = [state, messages.map(({ data }) => data), [...present.keys()], isLost, error?.code];
  return createElement("p", null, JSON.stringify(fields));
}

function Page({ url = "ws://localhost/live", rooms, token, seen = [] }) {
  const client = useClient(url, { token });
  seen.push(client);
  return [
    createElement("p", { key: "state" }, useClientState(client)),
    ...rooms.map((props, key) => createElement(Room, { key, client, ...props })),
  ];
}
const page = (props) => createElement(Page, props);

for (const isStrict of [false, true]) {
  const wrap = (element) => (isStrict ? createElement(StrictMode, null, element) : element);

  test(`components share a subscription${isStrict ? " in the strict mode" : ""}`, async () => {
    const rooms = [{ topic: "a", options: { presence: true, keep: 2 } }, { topic: "a", options: { presence: true, keep: 2 } }];
    const root = await render(wrap(page({ rooms })));
    assert.equal(sockets.filter(({ closed }) => closed === null).length, 1);
    const server = await socket();
    await change(() => server.accept());
    assert.deepEqual(server.types(), ["connect", "subscribe"]);
    await change(() => server.reply({ present: { ana: 1 }, position: "1-aa" }));
    await change(() => {
      server.receive({ type: "lost", topic: "a", position: "5-aa" });
      for (const data of [6, 7, 8]) server.receive({ type: "message", topic: "a", position: `${data}-aa`, data });
      server.receive({ type: "presence", topic: "a", joined: { ben: 2 } });
    });
    const expected = JSON.stringify(["subscribed", [7, 8], ["ana", "ben"], true, undefined]);
    assert.deepEqual(texts(root), ["open", expected, expected]);
    await change(() => root.update(wrap(page({ rooms: rooms.slice(1) }))));
    assert.equal(server.last("unsubscribe"), undefined);
    await change(() => root.update(wrap(page({ rooms: [] }))));
    assert.equal(server.last("unsubscribe").topic, "a");
    await change(() => root.unmount());
    assert.equal(server.closed, 1000);
  });
}

test("errors are shown, and other options for the same topic are one", async () => {
  const root = await render(page({ rooms: [{ topic: "a" }, { topic: "a", options: { since: null } }] }));
  const server = await socket();
  await change(() => server.accept());
  await change(() => server.refuse("not_allowed"));
  const shown = (code) => JSON.stringify(["ended", [], [], false, code]);
  assert.deepEqual(texts(root), ["open", shown("not_allowed"), shown("already_subscribed")]);
});

test("listeners and token functions of the last rendering are used", async () => {
  const heard = [], props = (name) => ({
    token: () => name,
    rooms: [{ topic: "a", options: { onMessage: ({ data }) => heard.push([name, data]) } }],
  });
  const root = await render(page(props("first")));
  const server = await socket();
  await change(() => server.accept());
  await change(() => root.update(page(props("second"))));
  await change(() => server.receive({ type: "message", topic: "a", data: 1 }));
  assert.deepEqual(heard, [["second", 1]]);
  await change(() => server.end());
  await change(() => pass(1_000));
  await change(() => sockets[1].open());
  assert.equal(sockets[1].sent[0].token, "second");
});

test("another URL is another client, and another topic another subscription", async () => {
  const seen = [], root = await render(page({ rooms: [{ topic: "a" }], seen }));
  const server = await socket();
  await change(() => server.accept());
  await change(() => root.update(page({ rooms: [{ topic: "b" }], seen })));
  assert.deepEqual(server.sent.slice(1).map(({ type, topic }) => [type, topic]), [
    ["subscribe", "a"], ["unsubscribe", "a"], ["subscribe", "b"],
  ]);
  await change(() => root.update(page({ url: "ws://localhost/other", rooms: [{ topic: "b" }], seen })));
  assert.equal(server.closed, 1000);
  assert.equal((await socket()).url, "ws://localhost/other");
  assert.equal(new Set(seen).size, 3, "null and two clients");
});
