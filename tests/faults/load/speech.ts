/** What is said in a run: numbered, so that a reader that can read knows what it reads, and different each time. */
import { randomBytes } from "node:crypto";
import { digestOf } from "../log/items.ts";

export interface Speech {
  readonly n: number;
  readonly text: string;
  readonly digest: string;
}

export function speech(n: number): Speech {
  const text = `#${n} ${randomBytes(24).toString("base64url")}`;
  return { n, text, digest: digestOf(Buffer.from(text)) };
}

/** Null where it was said by nobody here. */
export function numberIn(text: string): number | null {
  const digits = /^#(\d+) /.exec(text)?.[1];
  return digits === undefined ? null : Number(digits);
}

/** Who says things to others. Each telling is in the recorder when the promise resolves; it never rejects. */
export interface Sender {
  readonly id: string;
  say(recipientId: string, speech: Speech): Promise<void>;
}

/** Whoever takes part: it has work to do until it is told to finish. */
export interface Actor {
  readonly id: string;
  /** From now on it stays, and reads what there is. */
  stay(): Promise<void>;
  end(): Promise<void>;
}
