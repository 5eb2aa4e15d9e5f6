/**
 * Digests of messages that were accepted a short while ago: the same id and bytes again need not be appended again.
 *
 * A hint. When it is missing (never written, forgotten, Redis away), queuing finds the repetition in the database; when other bytes
 * come under the same id, the sender learns it by `message.discarded.v1` instead of at once.
 */
import { pipelineValues, type RedisDoor, unlessAway } from "./redis.ts";

/** Clients repeat within minutes. Longer, and a busy hour's digests fill Redis; after it, the database remembers. */
const rememberedS = 3_600;

/** Many calls' digests travel together: a write costs more than what is written. Another process learns of them this much later. */
const lingerMs = 5;

export interface MessageDigest {
  readonly messageId: string;
  /** SHA-256 of the canonical bytes. */
  readonly digest: Uint8Array;
}

export interface DigestsDoor {
  /** One for each id, in order; null where nothing is known. Never throws `Unavailable`. */
  lookup(senderId: string, messageIds: readonly string[]): Promise<readonly (Uint8Array | null)[]>;
  /** To be called only when Kafka has acknowledged the messages. Never throws `Unavailable`. */
  remember(senderId: string, digests: readonly MessageDigest[]): Promise<void>;
}

export function openDigests(redis: RedisDoor): DigestsDoor {
  const keyOf = (senderId: string, messageId: string) => redis.key(`digest:${senderId}:${messageId}`);
  /** On their way to Redis, by key. */
  const leaving = new Map<string, Uint8Array>();
  let writing: Promise<void> | null = null;

  async function write(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, lingerMs));
    writing = null;
    const batch = [...leaving];
    const written = redis.ask(async (client) => {
      const pipeline = client.pipeline();
      for (const [key, digest] of batch) pipeline.set(key, Buffer.from(digest), "EX", rememberedS);
      return pipelineValues(await pipeline.exec());
    });
    await unlessAway(written);
    for (const [key, digest] of batch) if (leaving.get(key) === digest) leaving.delete(key);
  }

  return {
    lookup: async (senderId, messageIds) => {
      if (messageIds.length === 0) return [];
      const keys = messageIds.map((messageId) => keyOf(senderId, messageId));
      const found = await unlessAway(redis.ask((client) => client.mgetBuffer(keys)));
      return keys.map((key, index) => leaving.get(key) ?? found?.[index] ?? null);
    },
    remember: async (senderId, digests) => {
      if (digests.length === 0) return;
      for (const { messageId, digest } of digests) leaving.set(keyOf(senderId, messageId), digest);
      writing ??= write();
      await writing;
    },
  };
}
