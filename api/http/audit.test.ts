import { afterEach, beforeEach, expect, test } from "vitest";
import { openCheckpoint, signCheckpoint } from "../../protocol/audit/checkpoint.ts";
import { hashLeaf, rootOf } from "../../protocol/audit/merkle.ts";
import { decodeBase64, formatVerifierKey, parseVerifierKey, verifierOf } from "../../protocol/audit/note.ts";
import { provesConsistency, provesInclusion } from "../../protocol/audit/proofs.ts";
import { nodePrimitives as primitives } from "../../protocol/primitives/node.ts";
import { type Answer, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";

const privateKey = new Uint8Array(32).fill(7);
const key = { privateKey, publicKey: primitives.ed25519PublicKey(privateKey) };
const verifier = verifierOf(primitives, "log.example/audit", key.publicKey);
const leafHashes = Array.from({ length: 21 }, (_, n) => hashLeaf(primitives, Uint8Array.of(n)));
const rootAt = (size: number) => rootOf(primitives, leafHashes.slice(0, size));

let service: InMemoryService;
beforeEach(async () => {
  service = await inMemoryService();
});
afterEach(() => service.http.close());

function recorded(): void {
  const { operators } = service.ports;
  operators.leafHashes.push(...leafHashes);
  for (const size of [20, 13]) {
    const root = rootAt(size);
    const note = signCheckpoint(primitives, key, { origin: verifier.name, size, root });
    operators.checkpoints.push({ size, root, note, verifierKey: formatVerifierKey(verifier), signedAt: size });
  }
}

const headers = () => ({ authorization: `Bearer ${service.ports.opsToken}` });
const fetched = (path: string) => fetch(service.ops.url + path, { headers: headers() });
const ask = async (path: string): Promise<Answer> => read(await fetched(path));
const bytes = (text: unknown) => decodeBase64(String(text)) as Uint8Array;

test("checkpoints and their key are given as text, and verify", async () => {
  recorded();
  const keyLine = await (await fetched("/ops/audit/key")).text();
  const given = parseVerifierKey(primitives, keyLine.trimEnd());
  const asked = { "": 20, "?size=13": 13, "?at_least=12": 13, "?at_least=13": 13, "?at_least=14": 20 };
  for (const [query, size] of Object.entries(asked)) {
    expect(await (await fetched(`/ops/audit/key${query}`)).text()).toBe(keyLine);
    const response = await fetched(`/ops/audit/checkpoint${query}`);
    expect(response.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    expect(openCheckpoint(primitives, given, await response.text())).toEqual({
      ...{ origin: verifier.name, size, root: rootAt(size) },
    });
  }
});

test("what is proved holds against the checkpoint", async () => {
  recorded();
  for (const [query, size] of [["", 20] as const, ["&size=13", 13] as const]) {
    for (const index of [0, 7, 12]) {
      const { json } = await ask(`/ops/audit/inclusion?index=${index}${query}`);
      const claim = {
        index: json.index,
        size: json.size,
        leafHash: bytes(json.leaf_hash),
        proof: json.proof.map(bytes),
      };
      expect([claim.index, claim.size, claim.leafHash]).toEqual([index, size, leafHashes[index]]);
      expect(provesInclusion(primitives, { ...claim, root: rootAt(size) })).toBe(true);
    }
  }
  const { json } = await ask("/ops/audit/consistency?from=13");
  const claim = { from: 13, to: 20, fromRoot: rootAt(13), toRoot: rootAt(20), proof: json.proof.map(bytes) };
  expect([json.from, json.to]).toEqual([13, 20]);
  expect(provesConsistency(primitives, claim)).toBe(true);
});

test.each([
  ["/ops/audit/checkpoint?size=14", 404, "checkpoint-unknown", "size"],
  ["/ops/audit/checkpoint?at_least=21", 404, "checkpoint-unknown", "at_least"],
  ["/ops/audit/checkpoint?size=13&at_least=13", 400, "malformed", "/at_least"],
  ["/ops/audit/key?at_least=21", 404, "checkpoint-unknown", "at_least"],
  ["/ops/audit/key?size=14", 404, "checkpoint-unknown", "size"],
  ["/ops/audit/inclusion?index=20", 404, "not-in-log", "index"],
  ["/ops/audit/inclusion?index=1&size=22", 404, "not-in-log", "size"],
  ["/ops/audit/consistency?from=14&to=13", 404, "not-in-log", "from"],
  ["/ops/audit/consistency?from=0", 400, "malformed", "/from"],
  ["/ops/audit/inclusion?index=01", 400, "malformed", "/index"],
  ["/ops/audit/inclusion", 400, "malformed", "/index"],
  ["/ops/audit/checkpoint?size=9007199254740992", 400, "malformed", "/size"],
])("%s is answered %i %s", async (path, status, code, field) => {
  recorded();
  expect((await ask(path)).problem).toMatchObject({ status, code, field });
});

test("before anything was signed there is nothing to prove against", async () => {
  for (const path of ["checkpoint", "key", "inclusion?index=0", "consistency?from=1"])
    expect((await ask(`/ops/audit/${path}`)).problem).toMatchObject({ status: 404, code: "checkpoint-unknown" });
});

test("agents are not answered, and neither is who has no token", async () => {
  expect((await fetch(`${service.http.url}/ops/audit/key`, { headers: headers() })).status).toBe(404);
  expect((await fetch(`${service.ops.url}/ops/audit/key`)).status).toBe(401);
});
