/**
 * Acks and audit in transactions, killed again and again: physically each record once.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { auditRecord, messageAcknowledged, messageDelivered } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import type { Failpoint } from "../streams/runner-options.ts";
import { expectWholeAudit } from "./audit-world.ts";
import { eventually, type House, openHouse, takeTexts } from "./house.ts";

const SEALPOST_TRANSACTIONS = "acks,audit";
const points: readonly Failpoint[] = ["after-mark", "before-transaction-commit", "after-transaction-commit"];

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: ["queuing", "routing", "receipts", "relay", "jobs"] });
});

afterAll(() => house.close());

test("acks and audit killed around every end of a transaction: a reader of committed records finds each record once", {
  timeout: 400_000,
  retry: 0,
}, async () => {
  const [alice, bob] = [await house.agent("alice", url), await house.agent("bob", url)];
  const sent: string[] = [];
  const read: string[] = [];
  for (const point of points) {
    const doomed = await Promise.all(
      ["acks", "audit"].map((role) =>
        house.start({ roles: [role], env: { SEALPOST_TRANSACTIONS, SEALPOST_FAILPOINT: `${role}:${point}:2` } }),
      ),
    );
    let dead = 0;
    for (const { ended } of doomed) void ended.then(() => (dead += 1));
    for (let round = 0; dead < doomed.length && round < 60; round += 1) {
      for (let index = 0; index < 3; index += 1) sent.push((await alice.send(bob.id, `${point} ${round}`)).messageId);
      read.push(...(await takeTexts(bob, 3)));
    }
    await eventually("both have died", () => dead === doomed.length, 60_000);
    expect(await Promise.all(doomed.map(({ ended }) => ended))).toEqual(["SIGKILL", "SIGKILL"]);
  }
  expect(read).toHaveLength(sent.length);

  await house.start({ roles: ["acks"], env: { SEALPOST_TRANSACTIONS } });
  await house.start({ roles: ["audit"], env: { SEALPOST_TRANSACTIONS } });
  const acknowledged = async () => {
    const ids = new Set((await house.read(messageAcknowledged)).map(({ decoded }) => decoded.messageId));
    return sent.every((id) => ids.has(id));
  };
  await eventually("everything is acknowledged", acknowledged, 90_000);
  const audited = async () => {
    const records = await house.read(auditRecord);
    const facts = new Set(records.map(({ decoded }) => decoded.sourceEventId));
    const told = await house.read(messageAcknowledged);
    return told.every(({ headers }) => facts.has(headersAsText(headers)["ce_id"] ?? ""));
  };
  await eventually("everything is audited", audited, 90_000);

  for (const topic of [messageDelivered, messageAcknowledged, auditRecord]) {
    const ids = (await house.read<object>(topic)).map(({ headers }) => headersAsText(headers)["ce_id"]);
    expect(ids.length).toBeGreaterThanOrEqual(sent.length);
    expect(ids.length - new Set(ids).size, `repeats in ${topic.name}`).toBe(0);
  }
  await expectWholeAudit(house);
});
