/**
 * The encryption tier's keys of the epochs: what content is sealed to on its way in (protocol/ingress.ts), and the opening of it.
 *
 * An epoch is a day of UTC. Its pair is made by whoever asks first on that day and is the same for every process with the keyring, where the
 * private half lies. It is destroyed once nothing of the epoch can come any more: from then on the log cannot be opened.
 */
import { epochOf, type IngressCommand, type IngressKey, ingressEpoch, openIngress } from "../protocol/ingress.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { type KeyPair, x25519PairFrom } from "../protocol/primitives/primitives.ts";
import { Refusal } from "../protocol/refusal.ts";
import { KeptKeys } from "./keyring/kept-keys.ts";
import type { Keyring } from "./keyring/keyring.ts";

/** The epochs that a log of a week's outage still holds, and more: each is one small pair. */
const PAIRS_MAX = 32;

/** How far clocks of the tier and of the API may differ: as much as ingress grants a message id. */
const CLOCK_AHEAD_MS_MAX = 300_000;

/** How long what was accepted may take until it stands in the log. */
const ACCEPTED_LATE_MS_MAX = 3_600_000;

/**
 * `epoch-gone`: its key was destroyed; `epoch-unknown`: there never was one in this keyring.
 *
 * @public
 */
export type IngressCode = "epoch-gone" | "epoch-unknown";

export interface Ingress {
  /** What content is sealed to now. Throws `Unavailable`. */
  currentKey(): IngressKey;
  /** Is there a key of this epoch? Throws `Unavailable`. */
  isKnown(epoch: number): boolean;
  /**
   * The content of a command.
   *
   * @throws Refusal `epoch-gone`, `epoch-unknown`, `malformed`, `bad-key`, `auth-failed` (the last: not sealed to us for this command); Unavailable
   */
  open(command: IngressCommand, sealed: Uint8Array): Promise<Uint8Array>;
  close(): void;
}

/** `now`: milliseconds since the epoch. */
export function openIngressKeys(keyring: Keyring, now: () => number = Date.now): Ingress {
  const pairs = new KeptKeys<KeyPair>(keyring, PAIRS_MAX, now);
  const pairOf = (epoch: number, make: boolean) =>
    pairs.get(`${epoch}`, () => {
      if (make) keyring.create({ kind: "epoch", number: epoch });
      return x25519PairFrom(nodePrimitives, keyring.unwrap({ kind: "epoch", number: epoch }));
    });
  return {
    currentKey: () => {
      const epoch = epochOf(now());
      return { epoch, publicKey: pairOf(epoch, true).publicKey };
    },
    isKnown: (epoch) => {
      try {
        pairOf(epoch, false);
        return true;
      } catch (error) {
        if (error instanceof Refusal) return false;
        throw error;
      }
    },
    open: async (command, sealed) => {
      const epoch = ingressEpoch(sealed);
      return openIngress(
        nodePrimitives,
        named(() => pairOf(epoch, false)),
        command,
        sealed,
      );
    },
    close: () => pairs.close(),
  };
}

/**
 * May content of this epoch still be accepted? Today's and yesterday's, for those that fetched the key before midnight; tomorrow's as far
 * as clocks differ. What is accepted is never stranded: `destroyEpochs` keeps more.
 */
export function isEpochAccepted(epoch: number, nowMs: number): boolean {
  return epoch >= epochOf(nowMs) - 1 && epoch <= epochOf(nowMs + CLOCK_AHEAD_MS_MAX);
}

/** Content that was appended to the log at this time (ms since the epoch, by the log's clock) is of no earlier epoch. */
export function earliestEpochAt(appendedMs: number): number {
  return epochOf(appendedMs - ACCEPTED_LATE_MS_MAX) - 1;
}

/** Content of this epoch and of those before it was appended before this time: the other side of `earliestEpochAt`. */
export function appendedBefore(epoch: number): number {
  return (epoch + 2) * DAY_MS + ACCEPTED_LATE_MS_MAX;
}

/**
 * Destroys the keys of the epochs before `lowestNeeded`, the lowest of which something lies above the trim point or in the dead letters, as far as
 * nothing of them can be accepted or on its way into the log any more. `nowMs` was taken before the log was looked at.
 */
export function destroyEpochs(keyring: Keyring, lowestNeeded: number, nowMs: number): void {
  keyring.destroyDatedBelow("epoch", Math.min(lowestNeeded, earliestEpochAt(nowMs)));
}

function named<Result>(work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.code === "key-destroyed") throw new Refusal<IngressCode>("epoch-gone");
    if (error.code === "key-unknown") throw new Refusal<IngressCode>("epoch-unknown");
    throw error;
  }
}
