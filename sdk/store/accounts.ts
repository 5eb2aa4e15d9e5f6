/**
 * Who this agent is, where it is registered, and the claims of bundles that are under way.
 */
import { randomUUID } from "node:crypto";
import type { DatabaseSync } from "node:sqlite";
import { createIdentity, type Identity, identityFromSeed } from "../../protocol/identity.ts";
import { BUNDLE_AGE_MS_MAX } from "../../protocol/limits.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { decodeUtf8, encodeUtf8 } from "../../protocol/utf8.ts";
import type { Sealer } from "./seal.ts";

const SEED_PLACE = "identity.seed:1";

export class Accounts {
  readonly #sealer: Sealer;
  readonly #statements: ReturnType<typeof prepare>;

  constructor(database: DatabaseSync, sealer: Sealer) {
    this.#sealer = sealer;
    this.#statements = prepare(database);
  }

  /** Null in a new store. Throws `store-damaged` under another key. */
  identity(): Identity | null {
    const row = this.#statements.identity.get() as { sealed_seed: Uint8Array } | undefined;
    if (row === undefined) return null;
    return identityFromSeed(nodePrimitives, this.#sealer.open(SEED_PLACE, row.sealed_seed));
  }

  /** Where the service holds the keys, the identity's key is the access key, and nothing else of it is used. */
  createIdentity(now: number, custody: "agent" | "server" = "agent"): Identity {
    const identity = createIdentity(nodePrimitives, nodeRandom);
    const sealed = this.#sealer.seal(SEED_PLACE, identity.signing.privateKey);
    this.#statements.addIdentity.run(identity.agentId, sealed, now);
    if (custody === "server") this.#statements.setMeta.run("custody", encodeUtf8(custody));
    return identity;
  }

  /** Who holds the keys of the identity's agent. */
  custody(): "agent" | "server" {
    return this.#statements.meta.get("custody") === undefined ? "agent" : "server";
  }

  /** The id of the agent that the access key is for; null before its registration. */
  heldId(): string | null {
    const row = this.#statements.meta.get("held-id") as { value: Uint8Array } | undefined;
    return row === undefined ? null : decodeUtf8(row.value);
  }

  setHeldId(agentId: string): void {
    this.#statements.setMeta.run("held-id", encodeUtf8(agentId));
  }

  /** The url under which its service was reached last; null in a new store. */
  home(): string | null {
    const row = this.#statements.meta.get("home") as { value: Uint8Array } | undefined;
    return row === undefined ? null : decodeUtf8(row.value);
  }

  setHome(url: string): void {
    this.#statements.setMeta.run("home", encodeUtf8(url));
  }

  /** Has it been registered with the service of this origin? */
  isRegistered(origin: string): boolean {
    return this.#statements.meta.get(`registered:${origin}`) !== undefined;
  }

  setRegistered(origin: string, isRegistered: boolean): void {
    if (isRegistered) this.#statements.setMeta.run(`registered:${origin}`, new Uint8Array(0));
    else this.#statements.removeMeta.run(`registered:${origin}`);
  }

  /** Were the prekeys last replaced before `time` (milliseconds), or never? */
  isReplacingDue(time: number): boolean {
    const row = this.#statements.meta.get("prekeys-replaced") as { value: Uint8Array } | undefined;
    return row === undefined || Number(decodeUtf8(row.value)) <= time;
  }

  setReplaced(now: number): void {
    this.#statements.setMeta.run("prekeys-replaced", encodeUtf8(String(now)));
  }

  /** Messages of this agent that its store has lost and the service has seen (rollback.ts). */
  isLost(messageId: string): boolean {
    return this.#statements.meta.get(`lost:${messageId}`) !== undefined;
  }

  markLost(messageId: string): void {
    this.#statements.setMeta.run(`lost:${messageId}`, new Uint8Array(0));
  }

  /**
   * The request id under which a bundle of this peer is to be claimed: the same one until `endClaim`, so that a claim whose answer
   * was lost burns no second one-time prekey.
   */
  claim(peerId: string, now: number): string {
    const row = this.#statements.claim.get(peerId) as { request_id: string; created_at: number } | undefined;
    if (row !== undefined && now - row.created_at < BUNDLE_AGE_MS_MAX && now >= row.created_at) return row.request_id;
    const requestId = randomUUID();
    this.#statements.setClaim.run(peerId, requestId, now);
    return requestId;
  }

  /** Its bundle was used, or is not to be used. */
  endClaim(peerId: string): void {
    this.#statements.endClaim.run(peerId);
  }
}

function prepare(database: DatabaseSync) {
  return {
    identity: database.prepare("SELECT sealed_seed FROM identity"),
    addIdentity: database.prepare("INSERT INTO identity (id, agent_id, sealed_seed, created_at) VALUES (1, ?, ?, ?)"),
    meta: database.prepare("SELECT value FROM meta WHERE name = ?"),
    setMeta: database.prepare("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"),
    removeMeta: database.prepare("DELETE FROM meta WHERE name = ?"),
    claim: database.prepare("SELECT request_id, created_at FROM claims WHERE peer_id = ?"),
    setClaim: database.prepare("INSERT OR REPLACE INTO claims (peer_id, request_id, created_at) VALUES (?, ?, ?)"),
    endClaim: database.prepare("DELETE FROM claims WHERE peer_id = ?"),
  };
}
