/** A client of Server-Sent Events for tests, with a parser of its own: it keeps the events it gets, and answers nothing by itself. */
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import type { Identity } from "../protocol/identity.ts";
import { signed } from "./signing.ts";
import { until } from "./stream-client.ts";

export interface ServedEvent {
  readonly name: string;
  readonly id: string | null;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into events of every shape.
  readonly data: any;
}

/** The events of a text that ends with one, as the WHATWG's parser finds them; comments are counted by `onComment`. */
export function parseEvents(text: string, onComment: () => void = () => undefined): ServedEvent[] {
  return text.split("\n\n").flatMap((block) => {
    const fields = new Map<string, string>();
    for (const line of block.split("\n")) {
      if (line.startsWith(":")) onComment();
      const [, field, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
      if (field !== undefined && value !== undefined) fields.set(field, value);
    }
    const data = fields.get("data");
    if (data === undefined) return [];
    return [{ name: fields.get("event") ?? "message", id: fields.get("id") ?? null, data: JSON.parse(data) }];
  });
}

export class EventClient {
  readonly response: IncomingMessage;
  readonly events: ServedEvent[] = [];
  comments = 0;
  /** The code of the last event, or null when the connection ended without one. */
  readonly closed: Promise<number | null>;
  #text = "";

  constructor(response: IncomingMessage) {
    this.response = response;
    response.setEncoding("utf8");
    response.on("data", (text: string) => this.#take(text));
    response.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      response.once("close", () => resolve(this.named("close")[0]?.data.code ?? null));
    });
  }

  named(name: string): ServedEvent[] {
    return this.events.filter((event) => event.name === name);
  }

  get seqs(): number[] {
    return this.named("item").map(({ data }) => data.seq);
  }

  /** Resolves when so many events of the name have come. */
  has(name: string, count = 1): Promise<void> {
    return until(() => this.named(name).length >= count);
  }

  /** Ends the connection as a broken network does. */
  cut(): void {
    this.response.destroy();
  }

  #take(text: string): void {
    const all = this.#text + text;
    const end = all.lastIndexOf("\n\n") + 2;
    if (end === 1) {
      this.#text = all;
      return;
    }
    this.#text = all.slice(end);
    const parsed = parseEvents(all.slice(0, end), () => {
      this.comments++;
    });
    this.events.push(...parsed);
  }
}

/** Resolves when the answer's head is there. @throws Error unless it is 200 */
export async function openEventClient(
  url: string,
  identity: Identity,
  more: Readonly<Record<string, string>> = {},
): Promise<EventClient> {
  const { headers } = await signed(identity, { method: "GET", url });
  const asked = request(url, { headers: { ...headers, ...more }, agent: false });
  asked.end();
  const [response] = (await once(asked, "response")) as [IncomingMessage];
  // A connection that breaks later is told to the request as well.
  asked.on("error", () => undefined);
  if (response.statusCode !== 200) {
    response.destroy();
    throw new Error(`answered ${response.statusCode}`);
  }
  return new EventClient(response);
}
