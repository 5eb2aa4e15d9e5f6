/** A Merkle log in memory with its own key: what the service says about its audit log, for tests and the bench. */

import { signCheckpoint } from "../protocol/audit/checkpoint.ts";
import { leafBytes } from "../protocol/audit/leaf.ts";
import { hashLeaf, hashNode, joinSubtrees, rootOf } from "../protocol/audit/merkle.ts";
import { formatVerifierKey, verifierOf } from "../protocol/audit/note.ts";
import { inclusionSpans, subtreesOf } from "../protocol/audit/proofs.ts";
import { nodePrimitives as primitives } from "../protocol/primitives/node.ts";
import type { AuditLog } from "../replay/audit-log.ts";
import type { AuditRecord } from "../schemas/values.ts";

const SEED = new Uint8Array(32).fill(7);

export class SignedLog implements AuditLog {
  readonly verifierKey: string;
  readonly #key = { privateKey: SEED, publicKey: primitives.ed25519PublicKey(SEED) };
  readonly #leaves: Uint8Array[] = [];
  #known: readonly (readonly Uint8Array[])[] = [];
  readonly #notes = new Map<number, string>();

  readonly #origin: string;

  constructor(origin = "sealpost.test/audit") {
    this.#origin = origin;
    this.verifierKey = formatVerifierKey(verifierOf(primitives, origin, this.#key.publicKey));
  }

  /** In the log's order. */
  append(records: readonly AuditRecord[]): void {
    for (const record of records) this.#leaves.push(hashLeaf(primitives, leafBytes(record)));
  }

  /** A checkpoint of everything so far. */
  sign(): void {
    this.#levels();
    const checkpoint = { origin: this.#origin, size: this.#leaves.length, root: rootOf(primitives, this.#leaves) };
    this.#notes.set(checkpoint.size, signCheckpoint(primitives, this.#key, checkpoint));
  }

  keysFor = async (): Promise<readonly string[]> => [this.verifierKey];

  checkpoint = async (sizeMin?: number): Promise<string | null> => {
    const sizes = [...this.#notes.keys()].sort((a, b) => a - b);
    const size = sizeMin === undefined ? sizes.at(-1) : sizes.find((one) => one >= sizeMin);
    return size === undefined ? null : (this.#notes.get(size) ?? null);
  };

  inclusion = async (index: number, size: number): Promise<readonly Uint8Array[]> => {
    return inclusionSpans(index, size).map((span) => {
      const hashes = subtreesOf(span).map(({ level, index: at }) => this.#levels()[level]?.[at]);
      return joinSubtrees(primitives, hashes as Uint8Array[]);
    });
  };

  /** The hashes of all perfect subtrees, made once for a log of this size: a million leaves take seconds. */
  #levels(): readonly (readonly Uint8Array[])[] {
    if (this.#known[0]?.length === this.#leaves.length) return this.#known;
    const levels = [[...this.#leaves]];
    for (let below = levels[0] ?? []; below.length > 1; levels.push(below)) {
      const pairs = below.slice(0, below.length - (below.length % 2));
      below = pairs.flatMap((left, n) => (n % 2 === 0 ? [hashNode(primitives, left, pairs[n + 1] ?? left)] : []));
    }
    this.#known = levels;
    return levels;
  }
}
