import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import type { PushRequested } from "../schemas/values.ts";
import { uniqueName, useStack } from "../tests/stack.ts";
import { prekeyClaimed, prekeyLow, prekeyPublished, prekeyRotated, pushRequested } from "./catalogue.ts";
import { type Codec, openCodec, schemaText } from "./codec.ts";
import { prekeyEvents } from "./prekey-events.ts";
import { openRegistry } from "./registry.ts";
import { samples } from "./samples.ts";
import type { Topic } from "./topic.ts";

const value: PushRequested = { recipientId: "r", seq: 4, requestedAt: 5 };
const own: Topic<PushRequested> = { ...pushRequested, name: uniqueName("push"), schema: pushRequested.name };
let registryUrl: string;
let codec: Codec;

beforeAll(async () => {
  registryUrl = useStack().registryUrl;
  codec = await openCodec({ registryUrl, register: true, topics: [own] });
});

describe("the codec", () => {
  test("opens every topic of the catalogue at the real registry, twice, with the same ids", async () => {
    const first = await openCodec({ registryUrl, register: true });
    const second = await openCodec({ registryUrl, register: false });
    for (const { topic, value: sample } of samples) {
      const bytes = first.encode(topic, sample);
      expect(bytes[0]).toBe(0);
      expect(second.encode(topic, sample)).toEqual(bytes);
      expect(second.learn([bytes])).toBeNull();
      expect(second.encode(topic, second.decode(topic, bytes))).toEqual(bytes);
    }
  });

  test("encodes the events of prekeys, each under an id of its own that its value carries", async () => {
    const whole = await openCodec({ registryUrl, register: true });
    const events = prekeyEvents(whole, "/sealpost/test");
    const remaining = { oneTimePrekeysRemaining: 9, kemPrekeysRemaining: 3 };
    const low = { agentId: "a", custody: "agent", ...remaining, timeToEmptyMs: null, lowAt: 7 } as const;
    const [first, second] = [events.low(low), events.low(low)];
    expect(first.id).not.toBe(second.id);
    expect(first).toMatchObject({ topic: "prekey.low.v1", key: "a", headers: { ce_id: first.id, ce_subject: "a" } });
    expect(whole.decode(prekeyLow, first.value)).toEqual({ ...low, eventId: first.id });
    const prekeys = { signedPrekeyId: randomUUID(), oneTimePrekeyId: null, kemPrekeyId: randomUUID() };
    const claimed = { agentId: "a", claimerId: "b", ...prekeys, lastResort: true, ...remaining, claimedAt: 8 };
    const { id, value: bytes } = events.claimed(claimed);
    expect(whole.decode(prekeyClaimed, bytes)).toEqual({ ...claimed, eventId: id });
    const ids = { signedPrekeyId: randomUUID(), lastResortKemPrekeyId: null };
    const published = { ...ids, ...remaining, oneTimePrekeys: 1, kemPrekeys: 2, retired: 0, publishedAt: 9 };
    const rotated = { ...ids, previousSignedPrekeyId: randomUUID(), rotatedAt: 10 };
    for (const [topic, fact, said] of [
      [prekeyPublished, events.published({ agentId: "a", custody: "agent", ...published }), published],
      [prekeyRotated, events.rotated({ agentId: "a", custody: "agent", ...rotated }), rotated],
    ] as const) {
      expect(whole.decode<object>(topic as Topic<object>, fact.value)).toMatchObject(said);
    }
  });

  test("refuses to start on a schema that is not registered, and names the subject", async () => {
    const missing = { ...own, name: uniqueName("missing") };
    const opening = openCodec({ registryUrl, register: false, topics: [missing] });
    await expect(opening).rejects.toMatchObject({ code: "schema-mismatch", field: `${missing.name}-value` });
  });

  test("fetches a schema it has not met once, and reads what was written with it", async () => {
    const evolved = await schemaWithField({ name: "more", type: ["null", "string"], default: null });
    const id = await openRegistry(registryUrl).register(`${own.name}-value`, evolved);
    const bytes = Buffer.concat([head(id), codec.encode(own, value).subarray(5), Buffer.from([0])]);
    expect(() => codec.decode(own, bytes)).toThrow(Refusal);
    const [once, again] = [codec.learn([bytes]), codec.learn([bytes, bytes])];
    expect(once).not.toBeNull();
    await Promise.all([once, again]);
    expect(codec.learn([bytes])).toBeNull();
    expect(codec.decode(own, bytes)).toEqual(value);
  });

  test("refuses whatever is not a value of the topic", async () => {
    const good = codec.encode(own, value);
    const other = await openCodec({ registryUrl, register: true, topics: [samples[0]?.topic as Topic<unknown>] });
    const foreign = other.encode(samples[0]?.topic as Topic<unknown>, samples[0]?.value);
    const poison: (Uint8Array | null)[] = [
      null,
      new Uint8Array(0),
      Buffer.from([0, 0, 0]),
      Buffer.concat([Buffer.from([1]), good.subarray(1)]),
      Buffer.concat([head(2_000_000_000), good.subarray(5)]),
      good.subarray(0, good.length - 1),
      Buffer.concat([good, Buffer.from([0])]),
      foreign,
    ];
    await codec.learn(poison);
    for (const bytes of poison) expect(() => codec.decode(own, bytes)).toThrow(Refusal);
    expect(codec.decode(own, good)).toEqual(value);
  });

  test("says that the registry is away, and not that the bytes are bad, when it does not answer", async () => {
    await expect(openCodec({ registryUrl: "http://127.0.0.1:9", register: true, topics: [own] })).rejects.toThrow(
      Unavailable,
    );
    await expect(openRegistry("http://127.0.0.1:9").find(1)).rejects.toThrow(Unavailable);
  });
});

describe("FULL_TRANSITIVE at the real registry", () => {
  test("takes a schema with one more field with a default and refuses one more without, or one less without", async () => {
    const registry = openRegistry(registryUrl);
    const subject = `${uniqueName("full")}-value`;
    await registry.register(subject, await schemaText(pushRequested));
    const optional = { name: "more", type: ["null", "string"], default: null };
    await registry.register(subject, await schemaWithField(optional));
    for (const refused of [
      await schemaWithField({ name: "must", type: "string" }),
      await schemaWithField(optional, "seq"),
    ]) {
      await expect(registry.register(subject, refused)).rejects.toMatchObject({ code: "schema-mismatch" });
    }
  });
});

async function schemaWithField(field: object, without?: string): Promise<string> {
  const schema = JSON.parse(await schemaText(pushRequested)) as { fields: { name: string }[] };
  const fields = [...schema.fields.filter(({ name }) => name !== without), field];
  // A subject keeps its schemas apart by their text; tests on the same subject must not meet.
  return JSON.stringify({ ...schema, doc: randomUUID(), fields });
}

function head(id: number): Buffer {
  const bytes = Buffer.alloc(5);
  bytes.writeUInt32BE(id, 1);
  return bytes;
}
