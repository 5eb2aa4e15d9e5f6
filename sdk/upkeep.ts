/**
 * Keeps this agent registered and its prekeys with the service: a signed prekey no older than seven days, and enough one-time ones.
 *
 * A private half is in the store before its public half leaves; an upload that may not have arrived is repeated as it is.
 */
import { randomUUID } from "node:crypto";
import type { Identity } from "../protocol/identity.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { forgetOldInitiations } from "../protocol/peer.ts";
import { createOneTimePrekey, createSignedPrekey } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { ServiceUnavailable } from "./errors.ts";
import { Backoff, delay } from "./patience.ts";
import type { ServiceClient } from "./service-client.ts";
import type { Store } from "./store/store.ts";

/** Prekeys run low slowly, and the service still has a signed one to hand out when all others are gone. */
export const UPKEEP_INTERVAL_MS = 10 * 60_000;

/** `begin` tries this often, over some ten seconds: a service that is starting up beside its agents. */
const REGISTRATIONS_MAX = 6;
const REGISTRATION_RETRY_MS = { firstMs: 250, lastMs: 5_000 };

const SIGNED_PREKEY_MS_MAX = 7 * DAY_MS;

/** As many as the service hands out to new peers before it falls back on the signed prekey alone. */
const ONE_TIME_PREKEYS_FULL = 100;
const ONE_TIME_PREKEYS_LOW = 20;

/** One-time prekeys of one upload: what the service takes. */
const UPLOAD_MAX = 200;

interface UpkeepPorts {
  readonly store: Store;
  readonly client: ServiceClient;
  readonly me: Identity;
  /** Where it is registered. */
  readonly origin: string;
  /** Ends the waiting. */
  readonly signal: AbortSignal;
}

export class Upkeep {
  readonly #ports: UpkeepPorts;
  #running: Promise<void> | null = null;
  /** On the monotonic clock; when it last succeeded. */
  #ranAt = Number.NEGATIVE_INFINITY;

  constructor(ports: UpkeepPorts) {
    this.#ports = ports;
  }

  /** The first contact. An agent that has been registered before does not wait for it. Throws what `ServiceClient` throws. */
  async begin(): Promise<void> {
    const { store, origin, signal } = this.#ports;
    if (store.accounts.isRegistered(origin) && store.prekeys.currentSigned() !== null) return;
    const backoff = new Backoff(REGISTRATION_RETRY_MS);
    for (let tries = 1; ; tries++) {
      try {
        await this.run();
        return;
      } catch (error) {
        if (!(error instanceof ServiceUnavailable) || tries === REGISTRATIONS_MAX) throw error;
        await delay(backoff.next(error.retryAfterMs ?? 0), signal);
      }
    }
  }

  /** Registers and uploads what is missing. Harmless when repeated, or asked for twice at the same time. */
  run(): Promise<void> {
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  /** Unless that was done a moment ago. */
  async runIfDue(): Promise<void> {
    if (performance.now() - this.#ranAt >= UPKEEP_INTERVAL_MS / 2) await this.run();
  }

  /** After the service has forgotten this agent. */
  async registerAgain(): Promise<void> {
    const { store, origin } = this.#ports;
    await store.commit(() => store.accounts.setRegistered(origin, false));
    await this.run();
  }

  /** Deletes what has passed its time. */
  async tidy(): Promise<void> {
    const { store } = this.#ports;
    if (!store.tidy(Date.now())) return;
    // A signed prekey is gone: what was remembered to protect it is not needed any more.
    const lookup = { signedPrekey: (id: string) => store.prekeys.find("signed", id) };
    for (const peerId of store.peers.ids()) {
      await store.commit(() => {
        const peer = store.peers.get(peerId);
        const next = forgetOldInitiations(peer, lookup);
        if (next !== peer) store.peers.put(next);
      });
    }
  }

  async #run(): Promise<void> {
    const { store, client, me, origin } = this.#ports;
    if (!store.accounts.isRegistered(origin)) {
      await client.register();
      await store.commit(() => {
        store.prekeys.markAllNotUploaded();
        store.accounts.setRegistered(origin, true);
      });
    }
    await store.commit(() => renewSignedPrekey(store, me));
    const remaining = await upload(store, client);
    if (remaining < ONE_TIME_PREKEYS_LOW) {
      await store.commit(() => addOneTimePrekeys(store, ONE_TIME_PREKEYS_FULL - remaining));
      await upload(store, client);
    }
    this.#ranAt = performance.now();
  }
}

function renewSignedPrekey(store: Store, me: Identity): void {
  const now = Date.now();
  const current = store.prekeys.currentSigned();
  if (current !== null && now - current.createdAt < SIGNED_PREKEY_MS_MAX) return;
  store.prekeys.addSigned(createSignedPrekey(nodePrimitives, me, { id: randomUUID(), now, random: nodeRandom }));
}

function addOneTimePrekeys(store: Store, count: number): void {
  const now = Date.now();
  for (let i = 0; i < count; i++) {
    store.prekeys.addOneTime(createOneTimePrekey(nodePrimitives, randomUUID(), nodeRandom), now);
  }
}

/** Also when there is nothing new: the answer tells how many the service has left. */
async function upload(store: Store, client: ServiceClient): Promise<number> {
  for (;;) {
    const signed = store.prekeys.currentSigned();
    if (signed === null) throw new Error("there is no signed prekey to upload");
    const oneTimePrekeys = store.prekeys.oneTimeNotUploaded(UPLOAD_MAX);
    const remaining = await client.uploadPrekeys({ signedPrekey: signed, oneTimePrekeys });
    await store.commit(() => store.prekeys.markUploaded([signed.id, ...oneTimePrekeys.map(({ id }) => id)]));
    if (oneTimePrekeys.length < UPLOAD_MAX) return remaining;
  }
}
