import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  CLOSE_MALFORMED,
  CLOSE_NOT_ALLOWED,
  CLOSE_SUPERSEDED,
  type ClientFrame,
  decodeClientFrames,
  decodeServerFrames,
  encodeClientFrames,
  encodeServerFrames,
  type ServerFrame,
} from "../../protocol/stream-frames.ts";

const document = readFileSync(new URL("../../docs/stream.md", import.meta.url), "utf8");

const id = { senderId: "oKIywvGpxDVjZHNX3y9cJvDbXbtJ4oJZVYcNDDqvFkU", itemId: "0199b1c4-5a00-7c3e-8f21-6d0b4e9a7c15" };
const body = Uint8Array.of(0xc0, 0xff, 0xee);

const fromClient: Record<string, ClientFrame> = {
  SEND: { type: "send", batch: 7, envelopes: [body] },
  ACK: { type: "ack", items: [id] },
  "ACK-UP-TO": { type: "ack-up-to", seq: 41 },
  REFUSE: { type: "refuse", code: "auth-failed", ...id },
};

const fromServer: Record<string, ServerFrame> = {
  ACCEPTED: { type: "accepted", batch: 7 },
  REJECTED: { type: "rejected", batch: 7, problem: { code: "unavailable" } },
  ITEM: { type: "item", seq: 41, kind: "message", ...id, body },
  "QUEUE-EMPTY": { type: "queue-empty", lastSeq: 41 },
  RECEIPT: {
    type: "receipt",
    status: "discarded",
    recipientId: id.senderId,
    messageId: id.itemId,
    at: Date.parse("2025-10-09T08:53:20Z"),
    code: "evicted",
  },
  GOAWAY: { type: "goaway", reason: "restart" },
  PROBLEM: { type: "problem", problem: { code: "malformed" } },
  NOTICE: { type: "notice", kind: "prekeys-low" },
};

/** The bytes of each example by the frame's name: in every line, the hex before the two spaces. */
function examples(): Map<string, string> {
  return new Map(
    [...document.matchAll(/^```hex (\S+)\n(.*?)^```/gms)].map(([, name = "", lines = ""]) => [
      name,
      lines.replaceAll(/ {2}.*$/gm, "").replaceAll("\n", ""),
    ]),
  );
}

test("docs/stream.md has one example of each frame", () => {
  expect([...examples().keys()]).toEqual([...Object.keys(fromClient), ...Object.keys(fromServer)]);
});

test.each(Object.entries(fromClient))("the example of %s is what a client sends", (name, frame) => {
  expect(examples().get(name)).toBe(Buffer.from(encodeClientFrames([frame])).toString("hex"));
  expect(decodeClientFrames(Buffer.from(examples().get(name) ?? "", "hex"))).toMatchObject([{ type: frame.type }]);
});

test.each(Object.entries(fromServer))("the example of %s is what the server sends", (name, frame) => {
  expect(examples().get(name)).toBe(Buffer.from(encodeServerFrames([frame])).toString("hex"));
  expect(decodeServerFrames(Buffer.from(examples().get(name) ?? "", "hex"))).toMatchObject([{ type: frame.type }]);
});

test("docs/stream.md lists the close codes", () => {
  for (const code of [CLOSE_MALFORMED, CLOSE_NOT_ALLOWED, CLOSE_SUPERSEDED]) expect(document).toContain(`| ${code} |`);
});
