/**
 * Keeps this agent registered and its prekeys with the service (protocol.md §2): a rotation every seven days, enough one-time prekeys, and
 * on both sides the same ones.
 *
 * A private half is in the store before its public half leaves; an upload that may not have arrived is repeated as it is.
 */
import { randomUUID } from "node:crypto";
import type { Identity } from "../protocol/identity.ts";
import { forgetOldInitiations } from "../protocol/peer.ts";
import { type DuePrekeys, duePrekeys, makePrekeys, prekeyStockDigest } from "../protocol/prekey-stock.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { NoticeKind } from "../protocol/stream-frames.ts";
import { firstContact } from "./first-contact.ts";
import type { HeldPrekeys, Service } from "./service.ts";
import type { Store } from "./store/store.ts";

/** Prekeys run low slowly, and the service has those of last resort to hand out when all others are gone. */
export const UPKEEP_INTERVAL_MS = 10 * 60_000;

/** The stocks are compared this often before they count as different: one-time prekeys may be claimed, and used, between the two looks. */
const COMPARISONS_MAX = 3;

/** All prekeys are replaced at most this often: a service whose word on them is never right would have the store filled up. */
const REPLACE_MS_MIN = 60 * 60_000;

/** A signed prekey is not replaced before this age because somebody asks: the service's word alone must not fill the store up. */
const ROTATE_MS_MIN = 60 * 60_000;

/** Between two runs because of notices. */
const NOTICE_MS_MIN = 60_000;

const EVERYTHING: DuePrekeys = duePrekeys({ signedCreatedAt: null, oneTime: 0, kem: 0, hasLastResort: false }, 0);

interface UpkeepPorts {
  readonly store: Store;
  readonly service: Service;
  readonly me: Identity;
  /** Where it is registered. */
  readonly origin: string;
  /** The service held prekeys whose private halves are not in the store (any more), or other ones: all were replaced. */
  readonly onReplaced: () => void;
  /** For what nobody awaits. */
  readonly background: (work: Promise<unknown>) => void;
  /** Ends the waiting. */
  readonly signal: AbortSignal;
}

export class Upkeep {
  readonly #ports: UpkeepPorts;
  #running: Promise<void> | null = null;
  /** On the monotonic clock; when it last succeeded. */
  #ranAt = Number.NEGATIVE_INFINITY;
  /** On the monotonic clock; the last run because of a notice. */
  #noticedAt = Number.NEGATIVE_INFINITY;
  #noticeTimer: NodeJS.Timeout | null = null;
  /** An operator asks for new prekeys, whatever the age of those there are. */
  #mustRotate = false;

  constructor(ports: UpkeepPorts) {
    this.#ports = ports;
  }

  /** The first contact. An agent that has been registered before does not wait for it. Throws what `Service` throws. */
  async begin(): Promise<void> {
    const { store, origin, signal } = this.#ports;
    if (store.accounts.isRegistered(origin) && store.prekeys.uploadable() !== null) return;
    await firstContact(() => this.run(), signal);
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

  /** The service says that there is something to do. Many notices are one; those of contacts are about no prekeys. */
  onNotice(kind: NoticeKind): void {
    if (kind === "contact-requested" || kind === "contact-accepted") return;
    this.#mustRotate ||= kind === "rotate-now";
    const waitMs = Math.max(0, this.#noticedAt + NOTICE_MS_MIN - performance.now());
    this.#noticeTimer ??= setTimeout(() => {
      this.#noticeTimer = null;
      this.#noticedAt = performance.now();
      this.#ports.background(this.run());
    }, waitMs);
  }

  stop(): void {
    if (this.#noticeTimer !== null) clearTimeout(this.#noticeTimer);
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
    if (!(await store.tidy(Date.now()))) return;
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
    const { store, service, origin, onReplaced } = this.#ports;
    if (!store.accounts.isRegistered(origin)) {
      await service.register();
      await store.commit(() => {
        store.prekeys.uploadCurrentAgain();
        store.accounts.setRegistered(origin, true);
      });
    }
    if (store.prekeys.uploadable() === null) await this.#make(EVERYTHING);
    await this.#upload(false);
    const held = await this.#compare();
    // A store that was copied back, or a service that was: what one hands out the other could not open.
    if (held === null) {
      if (!store.accounts.isReplacingDue(Date.now() - REPLACE_MS_MIN)) return;
      await this.#make(EVERYTHING);
      await this.#upload(true);
      // Not before: what the service did not hear of has replaced nothing.
      await store.commit(() => store.accounts.setReplaced(Date.now()));
      onReplaced();
    } else {
      const signedCreatedAt = store.prekeys.signedCreatedAt();
      const isAsked = this.#mustRotate && Date.now() - (signedCreatedAt ?? 0) > ROTATE_MS_MIN;
      await this.#make({ ...duePrekeys({ ...held, signedCreatedAt }, Date.now()), ...(isAsked && EVERYTHING) });
      await this.#upload(false);
      this.#mustRotate = false;
    }
    this.#ranAt = performance.now();
  }

  /** What the service holds; null when it is not what this store has uploaded. */
  async #compare(): Promise<HeldPrekeys | null> {
    const { store, service } = this.#ports;
    for (let comparisons = 1; ; comparisons++) {
      const held = await service.prekeyStock();
      const digest = prekeyStockDigest(nodePrimitives, store.prekeys.stock(held));
      if (Buffer.compare(digest, held.digest) === 0) return held;
      if (comparisons === COMPARISONS_MAX) return null;
    }
  }

  async #make(due: DuePrekeys): Promise<void> {
    if (!due.rotation && due.oneTime + due.kem === 0) return;
    const { store, me } = this.#ports;
    await store.commit(() => {
      const now = Date.now();
      store.prekeys.add(makePrekeys(nodePrimitives, me, due, { now, random: nodeRandom, newId: randomUUID }), now);
    });
  }

  /** What the service may not have yet. `replace`: of the older one-time prekeys none is to be handed out any more. */
  async #upload(replace: boolean): Promise<void> {
    const { store, service } = this.#ports;
    for (let isFirst = true; ; isFirst = false) {
      const upload = store.prekeys.uploadable();
      if (upload === null || upload.isUploaded) return;
      const { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys } = upload;
      await service.uploadPrekeys({ ...upload, replace: replace && isFirst });
      const ids = [signedPrekey, lastResortKemPrekey, ...oneTimePrekeys, ...kemPrekeys].map(({ id }) => id);
      await store.commit(() => store.prekeys.markUploaded(ids, Date.now()));
    }
  }
}
