/**
 * The records of this agent's peers: ratchets, sealed in the table, open in memory while in use.
 *
 * What is in memory follows the transactions: `group-commit.ts` writes a record once for each group in which it changed, and takes
 * it back, or forgets it, with the work or the group that changed it.
 */

import type { DatabaseSync } from "node:sqlite";
import { type Peer, unknownPeer } from "../../protocol/peer.ts";
import { decodePeer, encodePeer } from "../../protocol/peer-record.ts";
import type { Held } from "./group-commit.ts";
import type { Sealer } from "./seal.ts";

/** Records in memory between groups. Fewer, and a busy agent decodes them again and again; each is some kilobytes. */
const OPEN_MAX = 1_000;

export class Peers implements Held {
  readonly #sealer: Sealer;
  readonly #statements: ReturnType<typeof prepare>;
  readonly #open = new Map<string, Peer>();
  readonly #changed = new Set<string>();
  /** What the current work has replaced, in order. */
  #replaced: Peer[] = [];

  constructor(database: DatabaseSync, sealer: Sealer) {
    this.#sealer = sealer;
    this.#statements = prepare(database);
  }

  get(agentId: string): Peer {
    const open = this.#open.get(agentId);
    if (open !== undefined) return open;
    const row = this.#statements.get.get(agentId) as { sealed_state: Uint8Array } | undefined;
    const peer =
      row === undefined ? unknownPeer(agentId) : decodePeer(this.#sealer.open(place(agentId), row.sealed_state));
    this.#open.set(agentId, peer);
    return peer;
  }

  /** Only in a work of a group commit. */
  put(peer: Peer): void {
    this.#replaced.push(this.get(peer.agentId));
    this.#open.set(peer.agentId, peer);
    this.#changed.add(peer.agentId);
  }

  /** The ids of all peers there are records of. */
  ids(): string[] {
    return (this.#statements.ids.all() as { peer_id: string }[]).map(({ peer_id }) => peer_id);
  }

  mark(): void {
    this.#replaced = [];
  }

  undo(): void {
    for (const peer of this.#replaced.reverse()) this.#open.set(peer.agentId, peer);
    this.#replaced = [];
  }

  flush(): void {
    for (const agentId of this.#changed) {
      this.#statements.put.run(agentId, this.#sealer.seal(place(agentId), encodePeer(this.get(agentId))));
    }
  }

  settle(): void {
    this.#changed.clear();
    this.#replaced = [];
    for (const agentId of this.#open.keys()) {
      if (this.#open.size <= OPEN_MAX) break;
      this.#open.delete(agentId);
    }
  }

  drop(): void {
    this.#open.clear();
    this.#changed.clear();
    this.#replaced = [];
  }
}

function place(agentId: string): string {
  return `peers.state:${agentId}`;
}

function prepare(database: DatabaseSync) {
  return {
    get: database.prepare("SELECT sealed_state FROM peers WHERE peer_id = ?"),
    put: database.prepare("INSERT OR REPLACE INTO peers (peer_id, sealed_state) VALUES (?, ?)"),
    ids: database.prepare("SELECT peer_id FROM peers"),
  };
}
