/**
 * Facts for tests of the audit: a sample of each kind in turn, each under an id of its own.
 */
import { audit } from "../consumers/audit/audit.ts";
import { uuidFromBytes } from "../protocol/uuid.ts";
import type { Inbound } from "../streams/consumer.ts";
import { samples } from "../streams/samples.ts";

const audited = new Set(audit.reads.map(({ name }) => name));

export const factSamples = samples.filter(({ topic }) => audited.has(topic.name));

/** A sample of the n-th kind of fact, at offset n, under the n-th id. */
export function auditFact(n: number, change: Partial<Inbound<unknown>> = {}): Inbound<unknown> {
  const { topic, value } = factSamples[n % factSamples.length] as (typeof factSamples)[number];
  const headers = { ce_id: auditFactId(n) };
  return { ...{ topic, value, headers, partition: n % 3, offset: n, key: "key", timestamp: 1_000 + n }, ...change };
}

export function auditFactId(n: number): string {
  const bytes = new Uint8Array(16);
  new DataView(bytes.buffer).setUint32(0, n);
  return uuidFromBytes(bytes);
}
