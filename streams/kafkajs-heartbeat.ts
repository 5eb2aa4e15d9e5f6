/**
 * One repair of kafkajs 2.2.4, which says when it spoke last by the wall clock: a clock that was ahead and is set right leaves that in the future, and nothing
 * heartbeats until it has come. The group expels the member, which does not hear of it, for nobody asks.
 */
import { createRequire } from "node:module";

interface Member {
  /** ms since the epoch, by this machine. */
  lastRequest: number;
}

interface ConsumerGroup {
  readonly prototype: { heartbeat(this: Member, options: { readonly interval: number }): Promise<void> };
}

let original: ConsumerGroup["prototype"]["heartbeat"] | null = null;

/** Idempotent. */
export function heartbeatWhateverTheClock(): void {
  const load = createRequire(import.meta.url);
  const { prototype }: ConsumerGroup = load("kafkajs/src/consumer/consumerGroup");
  original ??= prototype.heartbeat;
  prototype.heartbeat = heartbeat;
}

function heartbeat(this: Member, options: { readonly interval: number }): Promise<void> {
  if (original === null) throw new Error("kafkajs is not repaired yet");
  if (this.lastRequest > Date.now()) this.lastRequest = 0;
  return original.call(this, options);
}
