/**
 * What a connection needs of the wire under it: one small port, so that every door is served by the same machine (connection.ts).
 */
import type { ServerFrame } from "../../protocol/stream-frames.ts";

export interface Transport {
  /** Writes in this order. `taken` is called when the network took all of it; never for what it did not take. */
  write(frames: readonly ServerFrame[], taken: () => void): void;
  /** Written, and not taken by the network yet. */
  bufferedBytes(): number;
  /** Writes nothing more after what was written, and says why: a close code of docs/stream.md. */
  close(code: number, reason: string): void;
  /** Without a word, and at once. */
  terminate(): void;
  /** Asks for a sign of life; ends a client that gave none since the last time. */
  beat(): void;
}
