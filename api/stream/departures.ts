/**
 * Agents that went from this gateway, or were handed an item here when they were gone already: while they counted as connected nobody asked for a
 * wake, so what waits for them would wake them with the next message only.
 *
 * Promise: who went, and after one to two looks is at no gateway, is announced; who has only changed its connection is not. What could not be asked or
 * told, because a server was away, is tried again at the next looks. The memory is bounded and ends with the process: whoever is not in it is woken
 * by the next message, as before.
 */
import type { PresenceDoor } from "../../store/presence.ts";
import { unlessAway } from "../../store/redis.ts";

export interface DeparturesDeps {
  readonly gatewayId: string;
  readonly presence: Pick<PresenceDoor, "lookup">;
  /** Whether the agent has a connection, or a poll that waits, at this gateway. */
  readonly isHere: (agentId: string) => boolean;
  /** These are nowhere: they are to be woken if anything waits for them. Throws `Unavailable`. */
  readonly announceWaiting: (agentIds: readonly string[]) => Promise<void>;
}

/** Twice as many as a gateway has streams, some 150 bytes each: all of them may go while Redis or Kafka is away. */
const GONE_MAX = 40_000;

/** Agents of one question to each server: as many as a sweep asks about. */
const ASKED_MAX = 1_000;

export class Departures {
  readonly #deps: DeparturesDeps;
  readonly #goneMax: number;
  /** Since the last look. */
  #recent = new Set<string>();
  /** Before it. */
  #due = new Set<string>();
  #lookUnderWay = false;

  constructor(deps: DeparturesDeps, goneMax = GONE_MAX) {
    this.#deps = deps;
    this.#goneMax = goneMax;
  }

  /** The agent is not here any more. */
  went(agentId: string): void {
    if (this.#recent.size + this.#due.size < this.#goneMax) this.#recent.add(agentId);
  }

  /** Looks for those who went before the look before this one began; while one is under way there is no other. Resolves also while a server is away. */
  async look(): Promise<void> {
    if (this.#lookUnderWay) return;
    this.#lookUnderWay = true;
    try {
      const due = [...this.#due];
      this.#due = this.#recent;
      this.#recent = new Set();
      await this.#lookFor(due);
    } finally {
      this.#lookUnderWay = false;
    }
  }

  /** Looks for everybody at once: nobody will look later. */
  async lookAtLast(): Promise<void> {
    const all = new Set([...this.#due, ...this.#recent]);
    this.#due.clear();
    this.#recent.clear();
    await this.#lookFor([...all]);
  }

  async #lookFor(gone: readonly string[]): Promise<void> {
    for (let start = 0; start < gone.length; start += ASKED_MAX) {
      const some = gone.slice(start, start + ASKED_MAX).filter((agentId) => !this.#deps.isHere(agentId));
      for (const agentId of await this.#stillOpen(some)) this.went(agentId);
    }
  }

  /** Announces who is nowhere. Answers of whom nothing is known yet. */
  async #stillOpen(agentIds: readonly string[]): Promise<readonly string[]> {
    const present = await unlessAway(this.#deps.presence.lookup(agentIds));
    if (present === null) return agentIds;
    // A presence of ours that could not be released: push would believe it, too, until it has run out.
    const stale = agentIds.filter((agentId) => present.get(agentId)?.gatewayId === this.#deps.gatewayId);
    const absent = agentIds.filter((agentId) => !present.has(agentId));
    if (absent.length === 0) return stale;
    const announced = await unlessAway(this.#deps.announceWaiting(absent));
    return announced === null ? [...stale, ...absent] : stale;
  }
}
