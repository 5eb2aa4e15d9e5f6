import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openCheckpoint } from "../protocol/audit/checkpoint.ts";
import { rootOf } from "../protocol/audit/merkle.ts";
import { decodeBase64, parseVerifierKey } from "../protocol/audit/note.ts";
import { provesConsistency, provesInclusion } from "../protocol/audit/proofs.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { createAuditKey } from "../store/audit-key.ts";
import { messageAcknowledged, messageQueued } from "../streams/catalogue.ts";
import type { Failpoint } from "../streams/runner-options.ts";
import { expectWholeAudit, leafHashesOf } from "./audit-world.ts";
import { HeldAgent } from "./held-agent.ts";
import { eventually, type House, openHouse, operatorsUrlOf, takeTexts } from "./house.ts";

const others = ["encryption", "queuing", "routing", "acks", "receipts", "sessions", "relay"];
const token = "a-token-of-the-operators-0123456789";

let house: House;
let url: string;
let opsUrl: string;
let auditEnv: Record<string, string>;

beforeAll(async () => {
  house = await openHouse();
  auditEnv = { SEALPOST_AUDIT_KEY_FILE: path.join(house.folder, "audit-key") };
  createAuditKey(auditEnv["SEALPOST_AUDIT_KEY_FILE"] ?? "", "log.example/audit");
  const env = { SEALPOST_OPS_TOKEN: token, SEALPOST_OPS_HTTP_PORT: "0" };
  const service = await house.start({ roles: ["api"], prepare: true, env });
  url = service.url;
  opsUrl = operatorsUrlOf(service);
  await house.start({ roles: others });
});

afterAll(() => house.close());

async function ask(call: string): Promise<Response> {
  const response = await fetch(`${opsUrl}/ops/audit/${call}`, { headers: { authorization: `Bearer ${token}` } });
  expect(response.status, call).toBe(200);
  return response;
}

/** Everything of a topic again, as a zombie or a restored database would publish it. */
async function repeat(topic: typeof messageQueued | typeof messageAcknowledged): Promise<number> {
  const records = await house.read<unknown>(topic);
  const producer = house.kafka.client.producer();
  await producer.connect();
  const messages = records.map(({ partition, key, value, headers = {} }) => ({ partition, key, value, headers }));
  await producer.send({ topic: topic.name, messages });
  await producer.disconnect();
  return messages.length;
}

test("every fact has one record, through crashes and repeats; checkpoints and proofs verify", async () => {
  const [alice, bob] = [await house.agent("alice", url), await house.agent("bob", url)];
  const held = new HeldAgent(url);
  expect((await held.register()).status).toBe(201);
  const jobs = await house.start({ roles: ["jobs"], env: auditEnv });

  // Audit dies three times while messages of both custodies go to and fro.
  let said = 0;
  const points: readonly Failpoint[] = ["before-commit", "after-commit", "after-publish"];
  for (const point of points) {
    const doomed = await house.start({ roles: ["audit"], env: { SEALPOST_FAILPOINT: `audit:${point}:2` } });
    let dead = false;
    void doomed.ended.then(() => (dead = true));
    for (; !dead && said < 3_000; said += 1) {
      await Promise.all([
        alice.send(bob.id, `secret canary ${said}`),
        held.send(bob.id, [`secret canary held ${said}`]),
      ]);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(await doomed.ended, point).toBe("SIGKILL");
  }
  await takeTexts(bob, said * 2, 90_000);
  // A reader may have a message before the world is told of it.
  const isTold = async (topic: typeof messageQueued | typeof messageAcknowledged) =>
    (await house.read<unknown>(topic)).length >= said * 2;
  await eventually("all are told as queued", () => isTold(messageQueued), 90_000);
  expect(await repeat(messageQueued)).toBeGreaterThanOrEqual(said * 2);
  const heir = await house.start({ roles: ["audit"] });
  await eventually("something is signed", async () => (await ask("checkpoint").catch(() => null)) !== null, 90_000);
  const older = await (await ask("checkpoint")).text();
  await eventually("all are told as acknowledged", () => isTold(messageAcknowledged), 90_000);
  expect(await repeat(messageAcknowledged)).toBeGreaterThanOrEqual(said * 2);
  const last = await alice.send(bob.id, "secret canary: the last");
  await takeTexts(bob, 1);
  await last.acknowledged({ signal: AbortSignal.timeout(90_000) });

  const records = await expectWholeAudit(house);
  expect(records.length).toBeGreaterThan(said * 6);
  const actions = [...new Set(records.map(({ action }) => action))];
  expect(actions).toEqual(
    expect.arrayContaining([
      ...["message.accepted", "message.delivered", "message.acknowledged", "session.initialized"],
      ...["agent.registered", "prekey.published", "prekey.claimed"],
    ]),
  );
  expect(JSON.stringify(records)).not.toContain("canary");

  const verifier = parseVerifierKey(nodePrimitives, (await (await ask("key")).text()).trimEnd());
  const newest = async () => openCheckpoint(nodePrimitives, verifier, await (await ask("checkpoint")).text());
  // The last checkpoint is signed when jobs ends, unless the machine is too busy for that: then by the next that runs.
  await jobs.stop();
  if ((await newest()).size < records.length) await house.start({ roles: ["jobs"], env: auditEnv });
  await eventually("all is signed", async () => (await newest()).size >= records.length, 90_000);
  const checkpoint = await newest();
  const { size } = checkpoint;
  // What happened a moment later has its record behind these.
  const leafHashes = leafHashesOf((await expectWholeAudit(house)).slice(0, size));
  expect(checkpoint).toEqual({ origin: "log.example/audit", size, root: rootOf(nodePrimitives, leafHashes) });
  for (const index of [0, Math.floor(size / 2), size - 1]) {
    const proof = (await (await ask(`inclusion?index=${index}&size=${size}`)).json()) as {
      readonly proof: readonly string[];
    };
    const claim = { index, size, leafHash: leafHashes[index] as Uint8Array, root: checkpoint.root };
    expect(provesInclusion(nodePrimitives, { ...claim, proof: proof.proof.map(bytesOf) })).toBe(true);
  }
  const from = openCheckpoint(nodePrimitives, verifier, older);
  expect(from.size).toBeLessThan(checkpoint.size);
  const grown = (await (await ask(`consistency?from=${from.size}&to=${size}`)).json()) as {
    readonly proof: readonly string[];
  };
  const claim = { from: from.size, to: checkpoint.size, fromRoot: from.root, toRoot: checkpoint.root };
  expect(provesConsistency(nodePrimitives, { ...claim, proof: grown.proof.map(bytesOf) })).toBe(true);
  await heir.stop();
}, 400_000);

function bytesOf(text: string): Uint8Array {
  return decodeBase64(text) ?? new Uint8Array(0);
}
