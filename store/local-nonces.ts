/**
 * The nonces that one process takes while it is cut off from the shared memory.
 *
 * Promise: a nonce is fresh once. Signatures made before the memory began are refused (`sign-again`): others may have taken them. The memory is bounded:
 * when it is full and nothing in it has expired it begins anew, and says up to when it has forgotten.
 */

export type NonceVerdict = "fresh" | "replayed" | "sign-again";

/** A nonce is forgotten this long after its signature expired: our clocks may differ by as much. */
export const slackS = 60;

/** Some 20 MB. More would cost memory that a flood of requests should not get. */
const noncesMax = 100_000;

export class LocalNonces {
  readonly #epochAt: (nowMs: number) => number;
  readonly #noncesMax: number;
  readonly #expiryS = new Map<string, number>();
  #epochS: number | null = null;
  /** Of signatures created up to then not every one that was taken is in `taken`, seconds; 0: all are. */
  forgottenUntilS = 0;

  /** `epochAt`: the latest `created` of a signature that was made by then, seconds. */
  constructor(epochAt: (nowMs: number) => number, max = noncesMax) {
    this.#epochAt = epochAt;
    this.#noncesMax = max;
  }

  remember(name: string, createdS: number, expiresS: number, nowMs: number): NonceVerdict {
    this.#epochS ??= this.#epochAt(nowMs);
    if (createdS <= this.#epochS) return "sign-again";
    if (this.#expiryS.has(name)) return "replayed";
    if (this.#expiryS.size >= this.#noncesMax && !this.#makeRoom(nowMs)) return "sign-again";
    this.#expiryS.set(name, expiresS);
    return "fresh";
  }

  /** What was taken, with the end of its signature (seconds since the epoch). */
  taken(): Iterable<readonly [name: string, expiresS: number]> {
    return this.#expiryS.entries();
  }

  /** Forgets what has expired; where that is nothing, everything. False: then this signature, too, is older than the memory. */
  #makeRoom(nowMs: number): boolean {
    for (const [name, expiresS] of this.#expiryS) if ((expiresS + slackS) * 1000 < nowMs) this.#expiryS.delete(name);
    if (this.#expiryS.size < this.#noncesMax) return true;
    this.#expiryS.clear();
    this.#epochS = this.#epochAt(nowMs);
    this.forgottenUntilS = this.#epochS;
    return false;
  }
}
