import avro from "avsc";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { encodeBase64Url } from "./base64url.ts";
import {
  decodeEnvelope,
  type Envelope,
  encodeEnvelope,
  envelopeAad,
  envelopeFromJson,
  envelopeToJson,
} from "./envelope.ts";
import { Refusal } from "./refusal.ts";
import { uuidFromBytes, uuidToBytes } from "./uuid.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const u32 = (min: number) =>
  fc.oneof(fc.integer({ min, max: 0xffff_ffff }), fc.constant(min), fc.constant(0xffff_ffff));
const agentId = bytes(32).map(encodeBase64Url);

const anyEnvelope: fc.Arbitrary<Envelope> = fc.record({
  messageId: bytes(16).map(uuidFromBytes),
  senderId: agentId,
  recipientId: agentId,
  sessionId: bytes(16),
  sendCounter: u32(1),
  previousCounter: u32(0),
  dhPublicKey: bytes(32),
  nonce: bytes(12),
  ciphertext: fc.uint8Array({ maxLength: 300 }),
  authTag: bytes(16),
  timestamp: fc.nat(253_402_300_799_999),
  flags: fc.nat(255),
  initiation: fc.uint8Array({ maxLength: 200 }),
});

/** The record as another implementation of Avro knows it. */
const record = avro.Type.forSchema({
  type: "record",
  name: "Envelope",
  fields: [
    { name: "messageId", type: { type: "fixed", name: "Uuid", size: 16 } },
    { name: "senderId", type: "string" },
    { name: "recipientId", type: "string" },
    { name: "sessionId", type: "bytes" },
    { name: "sendCounter", type: "long" },
    { name: "previousCounter", type: "long" },
    { name: "dhPublicKey", type: "bytes" },
    { name: "nonce", type: "bytes" },
    { name: "ciphertext", type: "bytes" },
    { name: "authTag", type: "bytes" },
    { name: "timestamp", type: "long" },
    { name: "flags", type: "int" },
    { name: "initiation", type: "bytes" },
  ],
});

function byAvro(envelope: Envelope): Uint8Array {
  const buffers = Object.entries(envelope).map(([name, value]) => [
    name,
    value instanceof Uint8Array ? Buffer.from(value) : value,
  ]);
  const message = { ...Object.fromEntries(buffers), messageId: Buffer.from(uuidToBytes(envelope.messageId)) };
  return new Uint8Array(record.toBuffer(message));
}

function refused(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
  return null;
}

describe("canonical bytes", () => {
  test("decode to what they were made of", () => {
    fc.assert(
      fc.property(anyEnvelope, (envelope) => {
        expect(decodeEnvelope(encodeEnvelope(envelope))).toEqual(envelope);
      }),
    );
  });

  test("are the Avro binary of the record", () => {
    fc.assert(
      fc.property(anyEnvelope, (envelope) => {
        expect(encodeEnvelope(envelope)).toEqual(byAvro(envelope));
      }),
    );
  });

  test("what is decoded has no other spelling: whatever is changed is refused or another envelope", () => {
    fc.assert(
      fc.property(anyEnvelope, fc.nat(), fc.nat(255), (envelope, at, value) => {
        const changed = encodeEnvelope(envelope);
        changed[at % changed.length] = value;
        const code = refused(() => expect(encodeEnvelope(decodeEnvelope(changed))).toEqual(changed));
        expect([null, "malformed"]).toContain(code);
      }),
      { numRuns: 1_000 },
    );
  });

  test("a number in more bytes than it needs is malformed", () => {
    const [envelope] = fc.sample(anyEnvelope, 1) as [Envelope];
    const canonical = encodeEnvelope({ ...envelope, initiation: new Uint8Array(0) });
    const longer = Uint8Array.from([...canonical.subarray(0, -1), 0x80, 0x00]);
    expect(refused(() => decodeEnvelope(longer))).toBe("malformed");
  });

  test("bytes cut short or left over are malformed", () => {
    fc.assert(
      fc.property(anyEnvelope, fc.nat(), (envelope, at) => {
        const canonical = encodeEnvelope(envelope);
        expect(refused(() => decodeEnvelope(canonical.subarray(0, at % canonical.length)))).toBe("malformed");
        expect(refused(() => decodeEnvelope(Uint8Array.from([...canonical, 0])))).toBe("malformed");
      }),
    );
  });
});

describe("the JSON form", () => {
  test("survives JSON text", () => {
    fc.assert(
      fc.property(anyEnvelope, (envelope) => {
        const text = JSON.stringify(envelopeToJson(envelope));
        expect(envelopeFromJson(JSON.parse(text))).toEqual(envelope);
      }),
    );
  });

  test("has no member too few, too many or of another type", () => {
    const [envelope] = fc.sample(anyEnvelope, 1) as [Envelope];
    const json: Record<string, unknown> = { ...envelopeToJson(envelope), initiation: "AA" };
    expect(refused(() => envelopeFromJson(json))).toBeNull();
    expect(refused(() => envelopeFromJson({ ...json, initiation: "" }))).toBe("malformed");
    expect(refused(() => envelopeFromJson({ ...json, more: 1 }))).toBe("malformed");
    for (const name of Object.keys(json).filter((member) => member !== "initiation")) {
      const { [name]: _left, ...rest } = json;
      expect(refused(() => envelopeFromJson(rest))).toBe("malformed");
    }
    for (const name of Object.keys(json)) {
      for (const value of [null, {}, [], true, "?", 1.5, -1]) {
        expect(refused(() => envelopeFromJson({ ...json, [name]: value }))).toBe("malformed");
      }
    }
    for (const value of [null, undefined, 1, "", [], [json]]) {
      expect(refused(() => envelopeFromJson(value))).toBe("malformed");
    }
  });
});

test("a ciphertext over the limit is malformed in both forms", () => {
  const [envelope] = fc.sample(anyEnvelope, 1) as [Envelope];
  const large = { ...envelope, ciphertext: new Uint8Array(65_537) };
  const more = { ciphertextBytesMax: 65_537 };
  expect(refused(() => encodeEnvelope(large))).toBe("malformed");
  expect(refused(() => decodeEnvelope(encodeEnvelope(large, more)))).toBe("malformed");
  expect(refused(() => envelopeFromJson(envelopeToJson(large, more)))).toBe("malformed");
  expect(decodeEnvelope(encodeEnvelope(large, more), more)).toEqual(large);
});

test("two envelopes that differ in what is authenticated differ in their associated data", () => {
  fc.assert(
    fc.property(anyEnvelope, anyEnvelope, (one, other) => {
      for (const name of Object.keys(one) as (keyof Envelope)[]) {
        const changed = { ...one, [name]: other[name] };
        const same = ["nonce", "ciphertext", "authTag"].includes(name) || String(one[name]) === String(other[name]);
        expect(String(envelopeAad(changed)) === String(envelopeAad(one))).toBe(same);
      }
    }),
  );
});
