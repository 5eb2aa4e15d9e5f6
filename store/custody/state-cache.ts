/**
 * Ratchet states that were committed a moment ago: opened, in this process; sealed, in Redis.
 *
 *   ratchet:{owner}:{peer} = u64(version) ‖ state, sealed exactly as in PostgreSQL; for an hour
 *
 * Promises: what is found is a guess, and never wins. It is used only where the row, locked, holds the very same sealed value (`StateMark`): what is
 * lost, old, damaged or foreign costs the reading of the row. While Redis is away nothing is found there. No skipped key is anywhere else than in
 * its state.
 */
import { ByteReader, ByteWriter } from "../../protocol/bytes.ts";
import type { Peer } from "../../protocol/peer.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { KeptKeys } from "../keyring/kept-keys.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { pipelineValues, type RedisDoor, unlessAway } from "../redis.ts";
import type { CustodyKeys } from "./custody-keys.ts";
import { type Pair, type StateMark, sealOf } from "./states.ts";

/** A pair that was silent for longer is read from its row. */
const REMEMBERED_S = 3_600;

/** Some 20 KB each, when the session is old: the pairs that speak in the same minute. Others are in Redis. */
const PEERS_MAX = 4_000;

const VERSION_BYTES = 8;

export interface CachedState extends StateMark {
  readonly peer: Peer;
  readonly from: "process" | "redis";
}

/** A state as it is committed. */
export interface FreshState extends Pair {
  readonly version: number;
  /** Sealed. */
  readonly state: Uint8Array;
  readonly peer: Peer;
}

export interface StateCache {
  /** Some of them, in any order. Throws `Unavailable` only for the keyring. */
  find(pairs: readonly Pair[]): Promise<readonly CachedState[]>;
  /** What the step that is about to be committed leaves behind; what was said before and not committed is forgotten. */
  prepare(states: readonly FreshState[]): void;
  /** The step is committed. Returns at once. Told of a step that was not, it would keep guesses that no row agrees with. */
  committed(): void;
  close(): void;
}

export interface StateCacheDeps {
  readonly redis: RedisDoor;
  readonly keyring: Keyring;
  readonly keys: Pick<CustodyKeys, "openState">;
}

export function openStateCache({ redis, keyring, keys }: StateCacheDeps): StateCache {
  const opened = new KeptKeys<CachedState>(keyring, PEERS_MAX, Date.now);
  let prepared: readonly FreshState[] = [];
  let isWriting = false;

  async function findInRedis(pairs: readonly Pair[]): Promise<readonly CachedState[]> {
    if (pairs.length === 0 || !redis.ready()) return [];
    const names = pairs.map((pair) => redis.key(nameOf(pair)));
    const values = await unlessAway(redis.ask((client) => client.mgetBuffer(names)));
    return (values ?? []).flatMap((value, index) => {
      const state = value === null ? null : openValue(keys, pairs[index] as Pair, value);
      return state === null ? [] : [state];
    });
  }

  async function writeToRedis(states: readonly FreshState[]): Promise<void> {
    // Behind a slow Redis what is left out is old there, and found to be.
    if (isWriting || states.length === 0 || !redis.ready()) return;
    isWriting = true;
    const writing = redis.ask(async (client) => {
      const pipeline = client.pipeline();
      for (const state of states) pipeline.set(redis.key(nameOf(state)), recordOf(state), "EX", REMEMBERED_S);
      return pipelineValues(await pipeline.exec());
    });
    await unlessAway(writing).finally(() => {
      isWriting = false;
    });
  }

  return {
    find: async (pairs) => {
      const here = pairs.map((pair) => opened.find(nameOf(pair)));
      const there = await findInRedis(pairs.filter((_, index) => here[index] === undefined));
      return [...here.filter((state) => state !== undefined), ...there];
    },
    prepare: (states) => {
      prepared = states;
    },
    committed: () => {
      for (const { ownerId, peerId, version, state, peer } of prepared) {
        const mark = { ownerId, peerId, version, seal: sealOf(state) };
        opened.put(nameOf(mark), { ...mark, peer, from: "process" });
      }
      void writeToRedis(prepared);
      prepared = [];
    },
    close: () => opened.close(),
  };
}

function nameOf({ ownerId, peerId }: Pair): string {
  return `ratchet:${ownerId}:${peerId}`;
}

function recordOf({ version, state }: FreshState): Buffer {
  const value = new ByteWriter(VERSION_BYTES + state.length).u64(version).bytes(state).finish();
  return Buffer.from(value.buffer, value.byteOffset, value.length);
}

/** Null for what does not open: PostgreSQL knows better, also why. */
function openValue(keys: StateCacheDeps["keys"], pair: Pair, value: Uint8Array): CachedState | null {
  if (value.length < VERSION_BYTES) return null;
  const version = new ByteReader(value).u64();
  const state = value.subarray(VERSION_BYTES);
  // It is used where the row holds the same, in the database's present generation.
  const stored = { ...pair, version, state, isOutdated: false };
  try {
    return { ...pair, version, seal: sealOf(state), peer: keys.openState(stored), from: "redis" };
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}
