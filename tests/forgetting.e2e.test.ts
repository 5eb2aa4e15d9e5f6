import { randomBytes, randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import path from "node:path";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeFrame } from "../protocol/frame.ts";
import { epochOf, sealIngress } from "../protocol/ingress.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { openIngressKeys } from "../store/ingress.ts";
import { createKeyring } from "../store/keyring/keyring-file.ts";
import { openRootFile } from "../store/keyring/root-file.ts";
import { messageDiscarded, messageSend } from "../streams/catalogue.ts";
import { headersAsText, toOutgoing } from "../streams/headers.ts";
import { openProducer } from "../streams/producer.ts";
import { readTopic } from "../streams/read-topic.ts";
import { deadLetterTopicName } from "../streams/topic.ts";
import { HeldAgent } from "./held-agent.ts";
import { eventually, type House, openHouse } from "./house.ts";

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: ["encryption", "queuing", "acks", "relay"] });
});

afterAll(() => house.close());

/** A command as the API appended it some days ago. */
async function appendOld(from: string, to: string, daysAgo: number): Promise<string> {
  const keyring = house.openKeyring();
  const before = Date.now() - daysAgo * DAY_MS;
  const keys = openIngressKeys(keyring, () => before);
  const ids = { senderId: from, recipientId: to, messageId: makeMessageId(Date.now(), nodeRandom) };
  const frame = encodeFrame({ contentType: "text/plain", body: Buffer.from("late") });
  const sealed = await sealIngress(nodePrimitives, nodeRandom, keys.currentKey(), ids, frame);
  keys.close();
  // As the job does it when it finds nothing of the epoch in the log.
  keyring.destroyDatedBelow("epoch", epochOf(before) + 1);
  keyring.close();
  const producer = openProducer({ kafka: house.kafka, log: pino({ level: "silent" }) });
  const value = {
    ...{ kind: "message" as const, ...ids, sealed },
    ...{ hmac: randomBytes(32), sessionId: new Uint8Array(), aboutId: null, sentAt: Date.now() },
  };
  const head = { id: randomUUID(), source: "/test", time: Date.now(), subject: `${from}/${ids.messageId}` };
  await producer.append([toOutgoing(house.codec, { ...head, topic: messageSend, key: `${from}:${to}`, value })]);
  await producer.close();
  return ids.messageId;
}

test("a command whose epoch's key is gone becomes a dead letter by name, its sender is told, and what follows is delivered", async () => {
  const [alice, bob] = [new HeldAgent(url), new HeldAgent(url)];
  for (const agent of [alice, bob]) expect((await agent.register()).status).toBe(201);
  await alice.send(bob.id, ["before"]);
  const late = await appendOld(alice.id, bob.id, 6);
  await alice.send(bob.id, ["after"]);
  expect(await bob.texts(2)).toEqual(["before", "after"]);
  const letters = () => readTopic(house.kafka, deadLetterTopicName(messageSend));
  await eventually("it is a dead letter", async () => (await letters()).length > 0);
  expect((await letters()).map(({ headers }) => headersAsText(headers)["x-error-code"])).toEqual(["epoch-gone"]);
  await eventually("it is told", async () =>
    (await house.read(messageDiscarded)).some(
      ({ decoded }) => decoded.messageId === late && decoded.code === "epoch-gone",
    ),
  );
});

test("the jobs that forget run in a house that has just begun, destroy nothing that is needed, and show how old keys are", async () => {
  const jobs = await house.start({ roles: ["jobs"] });
  const metrics = async () => (await fetch(`${jobs.url}/metrics`)).text();
  for (const job of ["resealing", "trimming", "epochs"]) {
    const hasRun = new RegExp(`^sealpost_job_runs_total\\{job="${job}",outcome="done"\\} [1-9]`, "m");
    await eventually(`${job} has run`, async () => hasRun.test(await metrics()));
  }
  expect(await metrics()).toMatch(/^sealpost_keyring_oldest_key_days\{kind="day"\} [01]$/m);
  expect(await metrics()).toMatch(/^sealpost_keyring_oldest_key_days\{kind="epoch"\} [01]$/m);
  expect(await metrics()).not.toContain('outcome="failed"');
  await jobs.stop();
});

test.each(["api", "encryption", "jobs"])(
  "%s does not start with a keyring that is not the database's, and says what to do",
  async (role) => {
    const folder = path.join(house.folder, `foreign-${role}`);
    mkdirSync(folder, { mode: 0o700 });
    const env = {
      SEALPOST_KEYRING_FILE: path.join(folder, "keyring"),
      SEALPOST_KEYRING_ROOT_FILE: path.join(folder, "root"),
    };
    createKeyring(env.SEALPOST_KEYRING_FILE, openRootFile(env.SEALPOST_KEYRING_ROOT_FILE));
    const said = await house.start({ roles: [role], env }).then(
      () => "it started",
      (error: Error) => error.message,
    );
    for (const part of ["ended (4) before it was ready", '"code":"keyring-foreign"', "npm run keyring -- accept"]) {
      expect(said).toContain(part);
    }
  },
);
