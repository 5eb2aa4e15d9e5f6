/**
 * Agents that have come, by whatever door: they need no more waking for what waited.
 *
 * Promise: what Redis could not be told, because it was away, it is told later, also when the agent has gone again by then: a wake that stayed
 * outstanding would silence the next ones for an hour. Ends with the process; then the hour is the bound.
 */
import { unlessAway } from "../../store/redis.ts";

export class Arrivals {
  readonly #endWakes: (agentIds: readonly string[]) => Promise<void>;
  /** At most those that were here while Redis was away. */
  readonly #untold = new Set<string>();

  /** `endWakes` throws `Unavailable`. */
  constructor(endWakes: (agentIds: readonly string[]) => Promise<void>) {
    this.#endWakes = endWakes;
  }

  /** Resolves also while Redis is away. */
  async add(agentIds: readonly string[]): Promise<void> {
    if (agentIds.length === 0) return;
    for (const agentId of agentIds) this.#untold.delete(agentId);
    if ((await unlessAway(this.#endWakes(agentIds))) !== null) return;
    for (const agentId of agentIds) this.#untold.add(agentId);
  }

  /** What could not be told when it happened. Each come is tried once by itself: with all that came before, thousands would be asked for at each. */
  async tellAgain(): Promise<void> {
    await this.add([...this.#untold]);
  }
}
