/**
 * Which partition a key belongs to: murmur2, as Kafka's Java clients and kafkajs's default partitioner do it, so that whoever else
 * writes to our topics agrees.
 *
 * We compute it ourselves because a request has a limit per partition, and because kafkajs asks its partitioner again at every retry.
 */
import type { PartitionId } from "./consumer.ts";

/** The partition, from 0. Text keys are hashed as UTF-8. */
export function partitionOf(key: string | Uint8Array, partitions: number): number {
  const bytes = typeof key === "string" ? Buffer.from(key, "utf8") : key;
  return (murmur2(bytes) & 0x7fffffff) % partitions;
}

const multiplier = 0x5bd1e995;

/** MurmurHash2, 32 bit, seed 0x9747b28c; a signed integer. */
function murmur2(bytes: Uint8Array): number {
  const at = (index: number): number => bytes[index] as number;
  const whole = bytes.length & ~3;
  let hash = 0x9747b28c ^ bytes.length;
  for (let i = 0; i < whole; i += 4) {
    let word = at(i) | (at(i + 1) << 8) | (at(i + 2) << 16) | (at(i + 3) << 24);
    word = Math.imul(word, multiplier);
    word = Math.imul(word ^ (word >>> 24), multiplier);
    hash = Math.imul(hash, multiplier) ^ word;
  }
  const rest = bytes.length - whole;
  if (rest > 0) {
    if (rest > 2) hash ^= at(whole + 2) << 16;
    if (rest > 1) hash ^= at(whole + 1) << 8;
    hash = Math.imul(hash ^ at(whole), multiplier);
  }
  hash = Math.imul(hash ^ (hash >>> 13), multiplier);
  return hash ^ (hash >>> 15);
}

/** Of a topic's partition, for maps. */
export function partitionName({ topic, partition }: PartitionId): string {
  return `${topic} ${partition}`;
}
