/**
 * Calls that wait for mail without a stream.
 *
 * Promise: one that waits is told of by presence, unless a stream or another poll has it, so that mail wakes it at once; where that fails it
 * wakes by itself, and looks.
 */
import type { AgentPresence, PresenceDoor } from "../../store/presence.ts";
import { unlessAway } from "../../store/redis.ts";

/** A poll that waits reads again after this, as a stream is swept. */
const POLL_WAIT_MS_MAX = 1_000;

const POLL_PREFIX = "poll-";

export class Polls {
  readonly #gatewayId: string;
  readonly #presence: PresenceDoor;
  readonly #waiting = new Map<string, Set<() => void>>();
  #count = 0;

  constructor(gatewayId: string, presence: PresenceDoor) {
    this.#gatewayId = gatewayId;
    this.#presence = presence;
  }

  /** Resolves when there may be mail for the agent, when the signal aborts, after `ms`, or for nothing. */
  async wait(agentId: string, signal: AbortSignal, ms: number): Promise<void> {
    if (signal.aborted) return;
    const held: AgentPresence = {
      agentId,
      gatewayId: this.#gatewayId,
      connectionId: `${POLL_PREFIX}${++this.#count}`,
    };
    const waiting = this.#waiting.get(agentId) ?? new Set();
    this.#waiting.set(agentId, waiting);
    const { promise, resolve } = Promise.withResolvers<void>();
    waiting.add(resolve);
    const timer = setTimeout(resolve, Math.min(ms, POLL_WAIT_MS_MAX));
    const abort = () => resolve();
    signal.addEventListener("abort", abort, { once: true });
    const claimed = unlessAway(this.#presence.claimFree(agentId, held));
    await promise;
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    waiting.delete(resolve);
    if (waiting.size === 0) this.#waiting.delete(agentId);
    await claimed;
    await unlessAway(this.#presence.release([held]));
  }

  /** Whether a call waits for the agent's mail. */
  has(agentId: string): boolean {
    return this.#waiting.has(agentId);
  }

  /** There may be mail for the agent. Answers whether somebody waited. */
  wake(agentId: string): boolean {
    const waiting = this.#waiting.get(agentId);
    if (waiting === undefined) return false;
    for (const resolve of waiting) resolve();
    return true;
  }

  wakeAll(): void {
    for (const agentId of this.#waiting.keys()) this.wake(agentId);
  }
}
