/** Hooks of React for the browser client of pywsapp. */

import type { Client, ConnectOptions, Message, PywsappError, State } from "./pywsapp.js";
import type { SubscribeOptions, Subscription } from "./pywsapp.js";

/** Connect while the component is mounted.
 *
 * @param options they are read when the URL changes; `token` can be another function in each rendering
 * @returns the client, or null in the first rendering
 */
export function useClient(url: string | URL, options?: ConnectOptions): Client | null;

/** Return the state of a client, and render again when it changes. */
export function useClientState(client: Client | null): State;

/** Subscribe to a topic while the component is mounted, and render again with each message and change.
 *
 * Components that use the same topic with the same options share one subscription.
 */
export function useTopic<T = unknown>(client: Client | null, topic: string, options?: TopicOptions<T>): TopicState<T>;

export interface TopicOptions<T = unknown> extends Omit<SubscribeOptions, "buffer"> {
  /** How many of the last messages `messages` has. Default: 100. */
  keep?: number;
  /** Called with each message. */
  onMessage?: (message: Message<T>) => void;
}

export interface TopicState<T = unknown> {
  /** The last messages, oldest first. */
  readonly messages: readonly Message<T>[];
  /** The values of those present, with the option `presence`. */
  readonly present: ReadonlyMap<string, unknown>;
  readonly state: Subscription["state"];
  /** Whether messages were lost since the component was mounted. */
  readonly isLost: boolean;
  /** Why the server refused or ended the subscription. */
  readonly error: PywsappError | null;
}
