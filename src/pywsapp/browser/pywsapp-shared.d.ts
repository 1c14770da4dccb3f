/** One connection of pywsapp for all tabs of a browser. */

import type { Client, ConnectOptions } from "./pywsapp.js";

/** Connect as `connect` does, over a connection that all tabs of the same origin with the same URL share.
 *
 * A SharedWorker has the connection. Where the browser has none, or no Web Locks (they need https or localhost), the
 * tab has a connection of its own. The options are those of the tab that comes first, but the newest one gives tokens.
 */
export function connectShared(url: string | URL, options?: Omit<ConnectOptions, "WebSocket">): Client;
