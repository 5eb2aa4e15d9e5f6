import { mkdtempSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { audit } from "../consumers/audit/audit.ts";
import { openCheckpoint } from "../protocol/audit/checkpoint.ts";
import { parseVerifierKey, verifierOf } from "../protocol/audit/note.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { findCheckpoint, findCheckpointCovering, type StoredCheckpoint } from "../store/audit-checkpoints.ts";
import { createAuditKey, readAuditKey } from "../store/audit-key.ts";
import { findHead } from "../store/audit-log.ts";
import type { Postgres } from "../store/postgres.ts";
import { auditFact } from "../tests/audit-facts.ts";
import { inStep, openSampleDatabase } from "../tests/messaging.ts";
import { signHead } from "./checkpoints.ts";

const folder = mkdtempSync(join(tmpdir(), "sealpost-audit-"));
const signer = createAuditKey(join(folder, "key"), "log.example/audit");
const verifier = verifierOf(nodePrimitives, signer.name, signer.key.publicKey);

let postgres: Postgres;
let signed: StoredCheckpoint[];
let compared: boolean[];
beforeEach(async () => {
  postgres = await openSampleDatabase();
  [signed, compared] = [[], []];
  return () => postgres.close();
});

async function record(from: number, below: number): Promise<void> {
  const facts = Array.from({ length: below - from }, (_, n) => auditFact(from + n));
  await inStep(postgres, (tx) => audit.step(facts, tx));
}

function sign(now = 1_000, signal = new AbortController().signal): Promise<void> {
  const deps = {
    ...{ postgres, signer, group: audit.name },
    onSigned: (checkpoint: StoredCheckpoint) => void signed.push(checkpoint),
    onCompared: (isContinued: boolean) => void compared.push(isContinued),
  };
  return signHead(deps, now, signal);
}

test("a head is signed once, and the next when the log has grown", async () => {
  await sign();
  expect([signed, compared]).toEqual([[], [true]]);
  await record(0, 300);
  await sign(2_000);
  await sign(3_000);
  await record(300, 310);
  await sign(4_000);
  expect(signed.map(({ size, signedAt }) => [size, signedAt])).toEqual([
    [300, 2_000],
    [310, 4_000],
  ]);
  const { root } = await findHead(postgres);
  const newest = await findCheckpoint(postgres);
  expect(openCheckpoint(nodePrimitives, verifier, newest?.note ?? "")).toEqual({
    origin: signer.name,
    size: 310,
    root,
  });
  expect(parseVerifierKey(nodePrimitives, newest?.verifierKey ?? "")).toEqual(verifier);
  expect((await findCheckpoint(postgres, 300))?.size).toBe(300);
  expect(await findCheckpoint(postgres, 301)).toBeNull();
  const covering = (size: number) => findCheckpointCovering(postgres, size).then((found) => found?.size);
  expect(await Promise.all([1, 300, 301, 310, 311].map(covering))).toEqual([300, 300, 310, 310, undefined]);
});

test("a head is not signed while a record below it waits to be published; what came since is not waited for", async () => {
  await record(0, 10);
  const outbox = (offset: number) => ({
    text: `INSERT INTO outbox VALUES ('audit', 'message.queued.v1', 0, $1, 0, 'audit.v1', '', '', '{}')`,
    values: [offset],
  });
  await postgres.query(outbox(5));
  const soon = AbortSignal.timeout(600);
  await sign(1_000, soon);
  expect(signed).toEqual([]);
  const signing = sign();
  await new Promise((resolve) => setTimeout(resolve, 300));
  await postgres.query(outbox(6));
  await postgres.query({ text: "DELETE FROM outbox WHERE input_offset = 5" });
  await signing;
  expect(signed.map(({ size }) => size)).toEqual([10]);
});

test.each([
  ["went back", "UPDATE audit_log SET size = 2, subtrees = substr(subtrees, 1, 32)"],
  [
    "was changed below the head",
    "UPDATE audit_tiles SET hashes = overlay(hashes placing '\\x00' from 33) WHERE level = 0 AND idx = 0",
  ],
  ["was changed at the head", "UPDATE audit_log SET subtrees = overlay(subtrees placing '\\x00' from 1)"],
])("a log that %s is not signed, and it is said each time", async (_, change) => {
  await record(0, 4);
  await sign();
  await record(4, 5);
  await postgres.query({ text: change });
  await sign();
  await sign();
  expect(signed.map(({ size }) => size)).toEqual([4]);
  expect(compared).toEqual([true, false, false]);
});

test("the key lies in a file of its owner, is read as it was made, and is never written over", () => {
  const path = join(folder, "key");
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readAuditKey(path)).toEqual(signer);
  const field = "SEALPOST_AUDIT_KEY_FILE";
  expect(() => createAuditKey(path, "other")).toThrow(expect.objectContaining({ code: "key-there", field }));
  expect(() => readAuditKey(join(folder, "none"))).toThrow(expect.objectContaining({ code: "key-missing", field }));
  expect(() => createAuditKey(join(folder, "x"), "a b")).toThrow(expect.objectContaining({ code: "malformed" }));
  writeFileSync(join(folder, "open"), "x", { mode: 0o644 });
  expect(() => readAuditKey(join(folder, "open"))).toThrow(expect.objectContaining({ code: "key-exposed", field }));
  writeFileSync(join(folder, "bad"), "x\n", { mode: 0o600 });
  expect(() => readAuditKey(join(folder, "bad"))).toThrow(expect.objectContaining({ code: "malformed", field }));
});
