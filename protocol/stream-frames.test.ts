import fc from "fast-check";
import { expect, test } from "vitest";
import { encodeBase64Url } from "./base64url.ts";
import { concat } from "./bytes.ts";
import { Refusal } from "./refusal.ts";
import {
  ACK_ITEMS_MAX,
  type ClientFrame,
  decodeClientFrames,
  decodeServerFrames,
  encodeClientFrames,
  encodeServerFrames,
  itemFrameBytes,
  type ServerFrame,
} from "./stream-frames.ts";

const bytes = (options: { minLength?: number; maxLength: number }) => fc.uint8Array(options);
const agentId = fc.uint8Array({ minLength: 32, maxLength: 32 }).map(encodeBase64Url);
const id = fc.record({ senderId: agentId, itemId: fc.uuid() });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const code = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/);
const problem = fc.dictionary(
  fc.string({ unit: "grapheme-ascii", maxLength: 8 }).filter((key) => key !== "__proto__"),
  fc.string({ maxLength: 8, unit: "grapheme" }),
);

const clientFrame: fc.Arbitrary<ClientFrame> = fc.oneof(
  fc.record({
    type: fc.constant("send" as const),
    batch: u32,
    envelopes: fc.array(bytes({ maxLength: 30 }), { minLength: 1, maxLength: 100 }),
  }),
  fc.record({ type: fc.constant("ack" as const), items: fc.array(id, { minLength: 1, maxLength: 20 }) }),
  fc.record({ type: fc.constant("ack-up-to" as const), seq: fc.maxSafeNat() }),
  fc
    .tuple(id, fc.constantFrom("malformed" as const, "auth-failed" as const, "prekey-stale" as const))
    .map(([item, reason]) => ({ type: "refuse" as const, code: reason, ...item })),
);

const serverFrame: fc.Arbitrary<ServerFrame> = fc.oneof(
  fc.record({ type: fc.constant("accepted" as const), batch: u32 }),
  fc.record({ type: fc.constant("rejected" as const), batch: u32, problem }),
  fc
    .tuple(id, fc.maxSafeNat(), fc.constantFrom("message" as const, "retry" as const), bytes({ maxLength: 60 }))
    .map(([item, seq, kind, body]) => ({ type: "item" as const, seq: Math.max(1, seq), kind, ...item, body })),
  fc.record({ type: fc.constant("queue-empty" as const), lastSeq: fc.maxSafeNat() }),
  fc.record({
    type: fc.constant("receipt" as const),
    status: fc.constantFrom("delivered", "acknowledged", "discarded", "undeliverable"),
    recipientId: agentId,
    messageId: fc.uuid(),
    at: fc.maxSafeNat(),
    code: fc.option(code),
  }),
  fc.record({ type: fc.constant("goaway" as const), reason: fc.stringMatching(/^[\x20-\x7e]{0,20}$/) }),
  fc.record({ type: fc.constant("problem" as const), problem }),
  fc.record({
    type: fc.constant("notice" as const),
    kind: fc.constantFrom(
      ...(["prekeys-low", "rotation-due", "rotate-now", "contact-requested", "contact-accepted"] as const),
    ),
  }),
);

/** What the decoder did: its frames, or that it refused; anything else it throws fails the test. */
function framesOrRefusal<Frame>(decode: (message: Uint8Array) => Frame[], message: Uint8Array): Frame[] | "refused" {
  try {
    return decode(message);
  } catch (error) {
    if (error instanceof Refusal && error.code === "malformed") return "refused";
    throw error;
  }
}

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));

test("what a client encodes, the server decodes", () => {
  fc.assert(
    fc.property(fc.array(clientFrame, { minLength: 1, maxLength: 5 }), (frames) => {
      expect(decodeClientFrames(encodeClientFrames(frames))).toEqual(frames);
    }),
  );
});

test("what the server encodes, a client decodes", () => {
  fc.assert(
    fc.property(fc.array(serverFrame, { minLength: 1, maxLength: 5 }), (frames) => {
      expect(decodeServerFrames(encodeServerFrames(frames))).toEqual(frames);
    }),
  );
});

test("a message of several frames is their messages joined", () => {
  fc.assert(
    fc.property(clientFrame, clientFrame, (a, b) => {
      expect(encodeClientFrames([a, b])).toEqual(concat(encodeClientFrames([a]), encodeClientFrames([b])));
    }),
  );
});

test("bytes have one meaning: what is decoded from a client encodes to the same bytes", () => {
  fc.assert(
    fc.property(clientFrame, fc.nat(), fc.integer({ min: 1, max: 255 }), (frame, at, flip) => {
      const message = encodeClientFrames([frame]);
      const place = at % message.length;
      message[place] = (message[place] as number) ^ flip;
      const frames = framesOrRefusal(decodeClientFrames, message);
      if (frames !== "refused") expect(encodeClientFrames(frames)).toEqual(message);
    }),
    { numRuns: 500 },
  );
});

test("any bytes at all are decoded or refused, by either side", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (message) => {
      framesOrRefusal(decodeClientFrames, message);
      framesOrRefusal(decodeServerFrames, message);
    }),
    { numRuns: 500 },
  );
});

test("a message cut short anywhere is refused or ends at a frame's end", () => {
  fc.assert(
    fc.property(clientFrame, fc.nat(), (frame, at) => {
      const message = encodeClientFrames([frame]);
      expect(framesOrRefusal(decodeClientFrames, message.subarray(0, at % message.length))).toBe("refused");
    }),
  );
});

test.each([
  ["a message without a frame", ""],
  ["an unknown type", "05 00000000"],
  ["a server's frame", "81 00000004 00000001"],
  ["a length beyond the message", "03 00000009 0000000000000001"],
  ["a frame with something left over", "03 00000009 000000000000000100"],
  ["a seq above 2^53 - 1", "03 00000008 0020000000000000"],
  ["no envelope", "01 00000005 00000001 00"],
  ["101 envelopes", `01 00000199 00000001 65 ${"00000000".repeat(101)}`],
  ["no answered item", "02 00000002 0000"],
  ["an agent id of 42 characters", `02 0000003e 0001 002a ${"41".repeat(42)} ${"00".repeat(16)}`],
  ["an agent id that is not base64url", `02 0000003f 0001 002b ${"2b".repeat(42)}41 ${"00".repeat(16)}`],
  ["a code with a NUL byte", `04 00000040 0001 00 002b ${"41".repeat(43)} ${"00".repeat(16)}`],
  ["a code that is not in the list", `04 00000042 0003 666f6f 002b ${"41".repeat(43)} ${"00".repeat(16)}`],
  ["a word every object has", `04 0000004a 000b 636f6e7374727563746f72 002b ${"41".repeat(43)} ${"00".repeat(16)}`],
])("from a client is refused: %s", (_name, message) => {
  expect(framesOrRefusal(decodeClientFrames, hex(message))).toBe("refused");
});

test("more answers in one frame than allowed are refused", () => {
  const one = `002b ${"41".repeat(43)} ${"00".repeat(16)}`;
  const frame = (count: number) => {
    const size = (2 + count * 61).toString(16).padStart(8, "0");
    return hex(`02 ${size} ${count.toString(16).padStart(4, "0")} ${one.repeat(count)}`);
  };
  expect(framesOrRefusal(decodeClientFrames, frame(ACK_ITEMS_MAX))).toHaveLength(1);
  expect(framesOrRefusal(decodeClientFrames, frame(ACK_ITEMS_MAX + 1))).toBe("refused");
});

test.each([
  ["a problem that is not JSON", "87 00000001 7b"],
  ["a problem that is not an object", "87 00000002 5b5d"],
  ["a problem that is not UTF-8", "87 00000001 ff"],
  ["an item of an unknown kind", `83 0000004a 0000000000000001 02 002b ${"41".repeat(43)} ${"00".repeat(16)} 00000000`],
  ["an item without a place", `83 0000004a 0000000000000000 00 002b ${"41".repeat(43)} ${"00".repeat(16)} 00000000`],
  [
    "a receipt with something left over",
    `85 00000049 05 002b ${"41".repeat(43)} ${"00".repeat(16)} 0000000000000000 0000 00`,
  ],
])("from a server is refused: %s", (_name, message) => {
  expect(framesOrRefusal(decodeServerFrames, hex(message))).toBe("refused");
});

test("a client reads past notices of a later server", () => {
  expect(decodeServerFrames(hex("88 00000001 63 88 00000001 02"))).toEqual([{ type: "notice", kind: "rotation-due" }]);
});

test("a client reads past receipts of a later server, and takes what stands beside them", () => {
  const receipt = `85 00000048 05 002b ${"41".repeat(43)} ${"00".repeat(16)} 0000000000000000 0000`;
  expect(decodeServerFrames(hex(`${receipt} 81 00000004 00000001`))).toEqual([{ type: "accepted", batch: 1 }]);
});

test("a client reads past frames of a later server", () => {
  expect(decodeServerFrames(hex("ff 00000002 0102 81 00000004 00000001"))).toEqual([{ type: "accepted", batch: 1 }]);
});

test("the body of a decoded item is a view of the message, and its frame has the announced size", () => {
  const item = { type: "item", seq: 7, kind: "message", senderId: "A".repeat(43), itemId: fc.sample(fc.uuid(), 1)[0] };
  const frame = { ...item, body: Uint8Array.of(1, 2, 3) } as ServerFrame & { type: "item" };
  const message = encodeServerFrames([frame]);
  expect(message).toHaveLength(itemFrameBytes(frame));
  const decoded = decodeServerFrames(message)[0];
  expect(decoded?.type === "item" && decoded.body.buffer === message.buffer).toBe(true);
});

test("what no decoder would take is not encoded", () => {
  expect(() => encodeClientFrames([{ type: "send", batch: 1, envelopes: [] }])).toThrow();
  expect(() => encodeClientFrames([{ type: "ack", items: [] }])).toThrow();
});

test("a message from a client with more than 1,000 frames is refused", () => {
  const frame = { type: "send", batch: 1, envelopes: [new Uint8Array(0)] } as const;
  const frames = Array.from({ length: 1_000 }, () => frame);
  expect(decodeClientFrames(encodeClientFrames(frames))).toHaveLength(1_000);
  expect(() => decodeClientFrames(encodeClientFrames([...frames, frame]))).toThrow("malformed");
});
