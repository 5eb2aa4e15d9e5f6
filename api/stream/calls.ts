/**
 * The batches that one connection sends, on their way to Kafka.
 *
 * Promise: they are appended in the order in which they came, whatever the checks of each take; one that is refused is not waited for. A chain
 * that was presented at the connect is looked at again for each. What is taken counts as messages; a batch that is refused has none, and counts as a call: whoever
 * has too many of those refused is refused the next without a question to anybody.
 */
import type { Caller } from "../auth.ts";
import { type DelegationDeps, recheckChain } from "../authz/delegation.ts";
import { appendSend, type CheckedSend, checkSend, type SendDeps } from "../operations/send.ts";
import { ApiRefusal } from "../problem.ts";
import { requireRate } from "../rate-limits.ts";
import type { ShedDeps } from "../sends-under-way.ts";

/** Calls of one connection that are not answered yet: enough to keep Kafka busy, few enough to be fair. */
const CALLS_MAX = 16;

/** Their bytes: two of the largest. */
const CALL_BYTES_MAX = 16 * 1024 * 1024;

export interface CallsDeps extends SendDeps, DelegationDeps, ShedDeps {}

export class Calls {
  readonly #deps: CallsDeps;
  readonly #caller: Caller;
  #open = 0;
  #openBytes = 0;
  /** Settles when all calls so far were handed to the appender. */
  #handedOn: Promise<void> = Promise.resolve();

  constructor(deps: CallsDeps, caller: Caller) {
    this.#deps = deps;
    this.#caller = caller;
  }

  /** More than may be open at a time: nothing further should be read from the client. */
  areTooMany(): boolean {
    return this.#open >= CALLS_MAX || this.#openBytes >= CALL_BYTES_MAX;
  }

  /**
   * Resolves when Kafka has them all.
   *
   * @throws as `send` does; ApiRefusal `overloaded` when too many calls of all connections are under way
   */
  async send(envelopes: readonly Uint8Array[]): Promise<void> {
    const underWay = this.#deps.sends.begin();
    const bytes = envelopes.reduce((sum, envelope) => sum + envelope.length, 0);
    this.#open++;
    this.#openBytes += bytes;
    try {
      await this.#append(envelopes);
    } finally {
      underWay.end();
      this.#open--;
      this.#openBytes -= bytes;
    }
  }

  async #check(envelopes: readonly Uint8Array[]): Promise<CheckedSend> {
    const { chain, agentId } = this.#caller;
    // Apart from its other calls: who has used those up still sends.
    const key = `refused:${agentId}`;
    requireRate(this.#deps, "calls", key);
    try {
      if (chain !== undefined) await recheckChain(this.#deps, chain);
      return await checkSend(this.#deps, this.#caller, envelopes);
    } catch (error) {
      if (error instanceof ApiRefusal) await this.#deps.rates.take(this.#deps.rateLimits.calls, key);
      throw error;
    }
  }

  /** Checked at once, handed to the appender after all calls before it. */
  async #append(envelopes: readonly Uint8Array[]): Promise<void> {
    const before = this.#handedOn;
    const checked = this.#check(envelopes);
    const appending = Promise.allSettled([before, checked]).then(async () => ({
      done: appendSend(this.#deps, await checked),
    }));
    this.#handedOn = appending.then(
      () => undefined,
      () => undefined,
    );
    await (await appending).done;
  }
}
