/**
 * What pywsapp.js loads when WebSockets cannot be opened: the reason, and a socket over plain HTTP in their place.
 *
 * The socket gets the messages of the server from the response to a GET request, and sends those of the client by POST
 * requests, one at a time; docs/reference/topics-protocol.md describes both.
 *
 * @typedef {Record<string, any>} Fields
 */

const RETRY = 600_000; // after this time, the next connection is tried with a WebSocket again
const PAUSE = 60_000; // after a stream that could not be opened, the next one is not tried before this time
const MAX_MESSAGES = 100; // in one request
const MAX_SIZE = 65_536; // characters in one request, except for a single larger message
const TIMEOUT = 15_000; // for the answer to a request
const ATTEMPTS = 6; // for one request, without those that are answered with 429
const BUSY = [0, 429, 502, 503, 504]; // the same request can be answered later; 0 is no answer
const WITHOUT = [404, 405, 406, 426]; // what a server without the fallback answers

/** Until when an address needs the fallback, and before when its streams are not tried. @type {Map<string, number>} */
const needed = new Map(), paused = new Map();

/** Return the status of a plain request, which says why handshakes fail; 0 without an answer.
 * @param {URL} url @param {number} timeout
 */
export async function findStatus(url, timeout) {
  try {
    const options = { credentials: "include", cache: "no-store", signal: AbortSignal.timeout(timeout) };
    const response = await fetch(httpUrl(url), /** @type {RequestInit} */ (options));
    await response.body?.cancel();
    return response.status;
  } catch {
    return 0; // no answer, or one for other pages only
  }
}

/** Return what takes the place of WebSockets for an address; undefined if they are to be tried.
 * @param {URL} url @param {number} [status] that of a plain request, after handshakes have failed
 */
export function findSocket(url, status = 0) {
  const now = Date.now(), address = httpUrl(url);
  if (status && status < 500 && !(paused.get(address) > now)) needed.set(address, now + RETRY);
  else if (!needed.has(address)) needed.set(address, Number(storage[nameOf(address)]));
  return (needed.get(address) ?? 0) > now ? FallbackSocket : undefined;
}

/** Note until when the fallback is needed, also for the next page in this tab. @param {string} address */
function note(address, until = 0) {
  needed.set(address, until);
  try {
    storage[nameOf(address)] = String(until || "");
  } catch { /* it is full: the next page finds out by itself */ }
}

/** @type {Record<string, string>} */
const storage = (() => {
  try {
    return globalThis.sessionStorage ?? {};
  } catch {
    return {}; // the page may not use it
  }
})();

/** @param {string} address */
const nameOf = (address) => `pywsapp${new URL(address).pathname}`;

/** @param {URL} url */
const httpUrl = (url) => url.href.replace(/^ws/, "http");

/** A connection with the interface of a WebSocket, as far as pywsapp.js uses it. */
export class FallbackSocket {
  /** @type {any} */ onopen;
  /** @type {any} */ onmessage;
  /** @type {any} */ onclose;
  /** @type {any} */ onerror;
  #url;
  #stream = ""; // the id of the event stream
  #isEnded = false;
  #abort = new AbortController(); // ends the event stream
  /** @type {string[]} */ #queue = []; // messages that are in no request yet
  #isSending = false;
  #number = 0; // of the last batch

  /** @param {URL} url @param {string} protocol */
  constructor(url, protocol) {
    this.#url = httpUrl(url);
    this.#run(protocol);
  }

  /** @param {string} text */
  send(text) {
    this.#queue.push(text);
    if (!this.#isSending) this.#send();
  }

  close(code = 1000) {
    if (this.#isEnded) return;
    this.#isEnded = true;
    const abort = () => this.#abort.abort();
    if (this.#stream) this.#post({ number: this.#number + 1, messages: [], close: code }, true).finally(abort);
    else {
      this.#failed(PAUSE); // a proxy can keep the stream for itself
      abort();
    }
  }

  /** Have the next connection tried with a WebSocket. @param {number} pause */
  #failed(pause) {
    paused.set(this.#url, Date.now() + pause);
    note(this.#url);
  }

  // ---- down ----

  /** @param {string} protocol */
  async #run(protocol) {
    try {
      const response = await fetch(this.#url, {
        headers: { Accept: `text/event-stream;protocol=${protocol}` },
        credentials: "include", cache: "no-store", signal: this.#abort.signal,
      });
      const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
      if (response.status === 200 && isStream && response.body) await this.#read(response.body);
      else {
        if (response.status < 500) this.#failed(WITHOUT.includes(response.status) ? RETRY : PAUSE);
        this.#abort.abort();
      }
    } catch { /* the stream has ended without its last event */ }
    this.#end(1006, "");
  }

  /** @param {ReadableStream<Uint8Array>} body */
  async #read(body) {
    const reader = body.getReader(), decoder = new TextDecoder();
    let rest = "";
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = events.pop() ?? "";
      for (const event of events) this.#handle(event);
    }
  }

  /** @param {string} event its lines */
  #handle(event) {
    if (this.#isEnded) return;
    let name = "message";
    const lines = [];
    for (const line of event.split("\n")) {
      if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) lines.push(line.slice(6));
    }
    if (!lines.length) return;
    const data = lines.join("\n");
    if (name === "message") this.onmessage?.({ data });
    else if (name === "open") this.#opened(JSON.parse(data).stream);
    else if (name === "close") {
      const { code, reason } = JSON.parse(data);
      this.#end(code, reason);
    }
  }

  /** @param {string} stream */
  #opened(stream) {
    this.#stream = stream;
    note(this.#url, Date.now() + RETRY);
    this.onopen?.();
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#abort.abort();
    this.onclose?.({ code, reason });
  }

  // ---- up ----

  async #send() {
    this.#isSending = true;
    await null; // what is sent at once goes into one request
    while (this.#queue.length && !this.#isEnded) {
      const messages = [this.#queue.shift()];
      let size = messages[0]?.length ?? 0;
      while (this.#queue.length && messages.length < MAX_MESSAGES && (size += this.#queue[0]?.length ?? 0) <= MAX_SIZE)
        messages.push(this.#queue.shift());
      const batch = { number: ++this.#number, messages };
      let status = 0;
      for (let attempt = 0, failed = 0; failed < ATTEMPTS && BUSY.includes(status) && !this.#isEnded; attempt++) {
        const pause = (0.5 + Math.random()) * 100 * 2 ** Math.min(attempt, ATTEMPTS - 1);
        if (attempt) await new Promise((resolve) => setTimeout(resolve, pause));
        status = await this.#post(batch);
        if (status !== 429) failed++; // with 429 earlier messages wait: a WebSocket would wait as long as it takes
      }
      if (status === 413) this.#end(1009, "the message is too large");
      else if (status !== 204) this.#end(1006, `the server answers a request with status ${status}`);
    }
    this.#isSending = false;
  }

  /** @param {Fields} batch @returns {Promise<number>} the status; 0 without an answer */
  async #post(batch, keepalive = false) {
    try {
      const response = await fetch(this.#url, {
        method: "POST", body: JSON.stringify(batch), keepalive,
        headers: { "Content-Type": "application/json", "Pywsapp-Stream": this.#stream },
        credentials: "include", cache: "no-store", signal: AbortSignal.timeout(TIMEOUT),
      });
      return response.status;
    } catch {
      return 0;
    }
  }
}
