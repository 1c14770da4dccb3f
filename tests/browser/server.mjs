/** The App of tests/support/topic_site.py in a process of its own, for tests that start, stop and freeze it. */

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const PROGRAM = fileURLToPath(new URL("../support/topic_site.py", import.meta.url));
const PORT = process.env.TEST_PORT;

export class Server {
  url = `ws://localhost:${PORT}`;
  #process;

  async start() {
    this.#process = spawn(process.env.TEST_PYTHON, ["-u", PROGRAM, PORT], { stdio: ["ignore", "inherit", "pipe"] });
    this.#process.stderr.setEncoding("utf-8");
    let output = "";
    await new Promise((resolve, reject) => {
      this.#process.stderr.on("data", (text) => {
        output += text;
        if (/ on \w+: http/.test(output)) resolve();
      });
      this.#process.on("exit", () => reject(new Error(`the server has ended:\n${output}`)));
    });
  }

  /** Send a signal; wait for the end of the process, unless the signal freezes it. */
  async signal(name) {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#process.removeAllListeners("exit").on("exit", resolve));
    this.#process.kill(name);
    if (!["SIGSTOP", "SIGCONT"].includes(name)) await ended;
  }

  async command(query) {
    const answer = await fetch(`http://localhost:${PORT}/command?${query}`, { method: "POST" });
    if (answer.status !== 200) throw new Error(await answer.text());
  }
}

/** Options with which a client comes back soon. */
export const FAST = { firstDelay: 20, maxDelay: 200 };
export const MESSAGES = 1_000;
export const TIMEOUT = 90_000; // of one test, which takes some seconds when the machine has nothing else to do
export const DISCONNECTS = 20;

/** Subscribe to a topic; return the subscription, and whether it is complete, when the server has accepted it. */
export async function subscribed(client, topic, options = {}, listener = () => {}) {
  const room = client.subscribe(topic, options, listener);
  const [complete] = await once(room, "subscribed");
  return [room, complete];
}

/** Publish numbers while the server drops all connections again and again; return what a reader has heard. */
export async function heardOverDisconnects(server, writer, reader, topic) {
  const heard = [], published = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  await subscribed(reader, topic, { since: null }, ({ data }) => heard.push(data) === MESSAGES && done());
  for (let number = 0; number < MESSAGES; number++) {
    published.push(writer.publish(topic, number));
    if (number % (MESSAGES / DISCONNECTS) === 20) {
      const back = once(reader, "state", (state) => state === "open");
      await server.command("drop=1006");
      await back;
    }
  }
  await Promise.all(published);
  await all;
  await reader.call("add", { a: 1, b: 1 }); // its reply comes after all messages that were sent twice
  return heard;
}

/** Wait until an event has values that a function accepts; return them. */
export function once(emitter, event, accepts = () => true) {
  return new Promise((resolve) => {
    const remove = emitter.on(event, (...values) => {
      if (!accepts(...values)) return;
      remove();
      resolve(values);
    });
  });
}
