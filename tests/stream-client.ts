/** A client of the stream for tests: it keeps the frames it gets, and answers nothing by itself. */
import { once } from "node:events";
import { WebSocket } from "ws";
import type { Identity } from "../protocol/identity.ts";
import {
  type ClientFrame,
  decodeServerFrames,
  encodeClientFrames,
  type ItemFrame,
  type ServerFrame,
} from "../protocol/stream-frames.ts";
import { signed } from "./signing.ts";

export class Client {
  readonly socket: WebSocket;
  readonly frames: ServerFrame[] = [];
  /** The close code. */
  readonly closed: Promise<number>;

  constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on("message", (data: Buffer) => this.frames.push(...decodeServerFrames(data)));
    // The close that follows says it all.
    socket.on("error", () => undefined);
    this.closed = new Promise((resolve) => socket.once("close", resolve));
  }

  get items(): ItemFrame[] {
    return this.frames.filter((frame) => frame.type === "item");
  }

  get seqs(): number[] {
    return this.items.map(({ seq }) => seq);
  }

  send(...frames: ClientFrame[]): void {
    this.socket.send(encodeClientFrames(frames));
  }

  /** Resolves when so many frames of the type have come. */
  has(type: ServerFrame["type"], count = 1): Promise<void> {
    return until(() => this.frames.filter((frame) => frame.type === type).length >= count);
  }
}

/** Resolves when the upgrade was taken. */
export async function openClient(
  url: string,
  identity: Identity,
  { delegation, ...options }: { readonly autoPong?: boolean; readonly delegation?: string } = {},
): Promise<Client> {
  const presented = delegation === undefined ? {} : { headers: { "sealpost-delegation": delegation } };
  const { headers } = await signed(identity, { method: "GET", url, ...presented });
  const client = new Client(new WebSocket(url, { headers, ...options }));
  await once(client.socket, "open");
  return client;
}

/** Resolves when it holds; throws when it does not, also on a machine that is busy. */
export async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error("it did not happen");
    await pause(3);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
