/**
 * Digests of messages that were accepted a short while ago: the same id and bytes again need not be appended again.
 *
 * A hint. When it is missing (never written, forgotten, Redis away), queuing finds the repetition in the database; when other bytes
 * come under the same id, the sender learns it by `message.discarded.v1` instead of at once.
 */
import { pipelineValues, type RedisDoor, unlessAway } from "./redis.ts";

/** Clients repeat within minutes. Longer, and a busy hour's digests fill Redis; after it, the database remembers. */
const rememberedS = 3_600;

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
  return {
    lookup: async (senderId, messageIds) => {
      if (messageIds.length === 0) return [];
      const keys = messageIds.map((messageId) => keyOf(senderId, messageId));
      const found = await unlessAway(redis.ask((client) => client.mgetBuffer(keys)));
      return found ?? keys.map(() => null);
    },
    remember: async (senderId, digests) => {
      if (digests.length === 0) return;
      const written = redis.ask(async (client) => {
        const pipeline = client.pipeline();
        for (const { messageId, digest } of digests) {
          pipeline.set(keyOf(senderId, messageId), Buffer.from(digest), "EX", rememberedS);
        }
        return pipelineValues(await pipeline.exec());
      });
      await unlessAway(written);
    },
  };
}
