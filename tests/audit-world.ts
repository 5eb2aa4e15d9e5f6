/**
 * The audit as it stands in Kafka, for end-to-end tests: every fact, every record, and whether the one has the other.
 */
import { isDeepStrictEqual } from "node:util";
import { expect } from "vitest";
import { audit } from "../consumers/audit/audit.ts";
import { leafBytes } from "../protocol/audit/leaf.ts";
import { hashLeaf } from "../protocol/audit/merkle.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import type { AuditRecord } from "../schemas/values.ts";
import { auditRecord } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { eventually, type House } from "./house.ts";

/** Where a fact stands first. */
interface Fact {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
}

/** By `ce_id`. */
async function readFacts(house: House): Promise<ReadonlyMap<string, Fact>> {
  const facts = new Map<string, Fact>();
  for (const topic of audit.reads) {
    for (const { headers, partition, offset } of await house.read(topic)) {
      const id = headersAsText(headers)["ce_id"] ?? "";
      if (!facts.has(id)) facts.set(id, { topic: topic.name, partition, offset: Number(offset) });
    }
  }
  return facts;
}

/** By place; what was published again must be the same bytes. */
async function readRecords(house: House): Promise<readonly AuditRecord[]> {
  const records = new Map<string, { readonly value: Buffer; readonly decoded: AuditRecord }>();
  for (const { headers, value, decoded } of await house.read(auditRecord)) {
    const id = headersAsText(headers)["ce_id"] ?? "";
    expect(decoded.eventId).toBe(id);
    const bytes = value ?? Buffer.alloc(0);
    expect(Buffer.compare(records.get(id)?.value ?? bytes, bytes), "a repeat has the same bytes").toBe(0);
    records.set(id, { value: bytes, decoded });
  }
  return [...records.values()].map(({ decoded }) => decoded).sort((a, b) => a.logIndex - b.logIndex);
}

/**
 * Waits until every fact has its record, and compares them one to one: by `ce_id`, each at the fact's first place, and the places without a gap. Answers the records
 * by place, those of lost places included.
 */
export async function expectWholeAudit(house: House): Promise<readonly AuditRecord[]> {
  let records: readonly AuditRecord[] = [];
  let facts: ReadonlyMap<string, Fact> = new Map();
  const ofFacts = () => records.filter(({ action }) => action !== "audit.place-lost");
  const told = () => new Set(ofFacts().map(({ sourceEventId }) => sourceEventId));
  await eventually(
    "every fact has its record",
    async () => {
      [facts, records] = [await readFacts(house), await readRecords(house)];
      // Both may grow between the two looks, and while one partition is read after the other; what is too many or missing stays so.
      return isDeepStrictEqual(told(), new Set(facts.keys())) && records.at(-1)?.logIndex === records.length - 1;
    },
    120_000,
    // What is wrong is told below.
  ).catch(() => undefined);
  expect(facts.size).toBeGreaterThan(0);
  expect(ofFacts()).toHaveLength(facts.size);
  expect(told()).toEqual(new Set(facts.keys()));
  for (const { sourceEventId, sourceTopic: topic, sourcePartition: partition, sourceOffset: offset } of ofFacts())
    expect({ topic, partition, offset }).toEqual(facts.get(sourceEventId));
  expect(records.map(({ logIndex }) => logIndex)).toEqual(records.map((_, index) => index));
  return records;
}

export function leafHashesOf(records: readonly AuditRecord[]): readonly Uint8Array[] {
  return records.map((record) => hashLeaf(nodePrimitives, leafBytes(record)));
}
