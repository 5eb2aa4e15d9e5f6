/**
 * The door of Server-Sent Events: the answer to one GET that does not end (docs/stream.md). It only goes out; a client answers over HTTP.
 *
 *   event  = "event: " name LF ["id: " seq LF] "data: " JSON LF LF
 *   beat   = ": beat" LF LF
 *
 * Promise: what an event says is what the poll and the binary frame of the same name say.
 */
import type { ServerResponse } from "node:http";
import { Unavailable } from "../../protocol/refusal.ts";
import type { ServerFrame } from "../../protocol/stream-frames.ts";
import { formatTimestamp } from "../../protocol/timestamp.ts";
import type { Caller } from "../auth.ts";
import { itemToJson } from "../item-json.ts";
import type { Connection } from "./connection.ts";
import type { Gateway } from "./gateway.ts";
import type { Transport } from "./transport.ts";

/** A comment: no event of any client. */
const BEAT = ": beat\n\n";

/**
 * What makes an answer, whose head was written, the agent's newest stream.
 *
 * @throws Unavailable while the process is going away or full
 */
export function openEvents(gateway: Gateway, caller: Caller): (response: ServerResponse) => void {
  if (!gateway.takes()) throw new Unavailable("service");
  return (response) => gateway.accept(caller, (connection) => new EventStream(response, connection));
}

class EventStream implements Transport {
  readonly #response: ServerResponse;
  /** The network took something since the last beat. */
  #alive = true;

  constructor(response: ServerResponse, connection: Connection) {
    this.#response = response;
    // The close that follows says it all.
    response.on("error", () => undefined);
    // A client of this door has no word for leaving: none can be told from a crash.
    response.on("close", () => connection.onClosed("in order"));
  }

  write(frames: readonly ServerFrame[], taken: () => void): void {
    this.#write(frames.map(eventOf).join(""), taken);
  }

  bufferedBytes(): number {
    return this.#response.writableLength;
  }

  /** The code stands in a last event: there is no other place for it. */
  close(code: number, reason: string): void {
    if (!this.#response.writableEnded) this.#response.end(eventText("close", { code, reason }));
  }

  terminate(): void {
    this.#response.destroy();
  }

  beat(): void {
    if (!this.#alive) {
      this.terminate();
      return;
    }
    this.#alive = false;
    this.#write(BEAT, () => undefined);
  }

  #write(text: string, taken: () => void): void {
    if (this.#response.writableEnded || this.#response.destroyed) return;
    // As bytes: only of bytes it is known how many wait.
    this.#response.write(Buffer.from(text), (error) => {
      if (error) return;
      this.#alive = true;
      taken();
    });
  }
}

function eventOf(frame: ServerFrame): string {
  switch (frame.type) {
    case "item":
      return eventText("item", itemToJson(frame), frame.seq);
    case "queue-empty":
      return eventText("queue_empty", { last_seq: frame.lastSeq }, frame.lastSeq);
    case "receipt":
      return eventText("receipt", {
        message_id: frame.messageId,
        recipient_id: frame.recipientId,
        status: frame.status,
        code: frame.code,
        at: formatTimestamp(frame.at),
      });
    case "notice":
      return eventText("notice", { kind: frame.kind });
    case "goaway":
      return eventText("goaway", { reason: frame.reason });
    case "problem":
      return eventText("problem", frame.problem);
    case "accepted":
    case "rejected":
      throw new Error("nothing is sent through an event stream that could be accepted");
  }
}

/** JSON has no line breaks, so that one line of data holds it all. The id is the cursor of a poll. */
function eventText(name: string, data: object, cursor?: number): string {
  return `event: ${name}\n${cursor === undefined ? "" : `id: ${cursor}\n`}data: ${JSON.stringify(data)}\n\n`;
}
