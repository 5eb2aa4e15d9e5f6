/**
 * What no log may hold: two ciphertexts that one message key was used for.
 */
import { expect } from "vitest";
import { decodeEnvelope } from "../protocol/envelope.ts";
import { messageEncrypted } from "../streams/catalogue.ts";
import type { House } from "./house.ts";
import { keysUsedTwice } from "./keys-used-twice.ts";

/** Looks at every envelope in the log; how many different ones there are. */
export async function expectCleanLog(house: House): Promise<number> {
  const records = (await house.read(messageEncrypted)).filter(({ decoded }) => decoded.kind === "message");
  const bodies = new Map(records.map(({ decoded }) => [hex(decoded.body), decoded.body]));
  expect(keysUsedTwice([...bodies.values()].map((body) => decodeEnvelope(body)))).toEqual([]);
  return bodies.size;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
