import { copyFileSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { beforeEach, expect, test } from "vitest";
import { decodeEnvelope } from "../protocol/envelope.ts";
import { decodeInitiation } from "../protocol/initiation.ts";
import { type FakeService, problem } from "./fake-service.ts";
import { firstProblem, Stranger, take, texts, until, useStage } from "./stage-for-tests.ts";

const WEEK_MS = 7 * 86_400_000;
const UPLOAD = "POST /messaging/upload-prekeys";

const stage = useStage();
const { open, acquainted } = stage;
let service: FakeService;

beforeEach(() => {
  ({ service } = stage);
});

const uploads = () => service.requests.filter((request) => request === UPLOAD).length;
const files = (name: string) => ["", "-wal", "-shm"].map((end) => join(stage.folder, `${name}.db${end}`));

/** What a backup of a closed agent's store is. */
function backUp(name: string): void {
  copyFileSync(join(stage.folder, `${name}.db`), join(stage.folder, `${name}.backup`));
}

function restore(name: string): void {
  for (const file of files(name)) if (existsSync(file)) rmSync(file);
  copyFileSync(join(stage.folder, `${name}.backup`), join(stage.folder, `${name}.db`));
}

test("two agents begin with suite 2, under one-time prekeys of both kinds", async () => {
  const [alice, bob] = [await open("alice"), await open("bob")];
  const [kem, oneTime] = [service.account(bob.id).kemPrekeys[0], service.account(bob.id).oneTimePrekeys[0]];
  await alice.send(bob.id, "after the quantum computer");
  expect(texts(await take(bob, 1))).toEqual(["after the quantum computer"]);
  const { initiation } = decodeEnvelope(service.sent[0]?.bytes ?? new Uint8Array(0));
  expect(decodeInitiation(initiation)).toMatchObject({
    suite: 2,
    kemPrekeyId: kem?.["id"],
    oneTimePrekeyId: oneTime?.["id"],
  });
});

test("who has published a KEM prekey refuses suite 1, and who requires suite 2 does not begin without it", async () => {
  const [alice, bob] = [await open("alice", { requirePq: true }), await open("bob")];
  const downgraded = new Stranger(service, bob, { kemPrekey: null });
  const item = downgraded.seal(downgraded.message("stripped"));
  service.put(bob.id, item);
  await until(() => service.refused.length === 1);
  expect(service.refused).toEqual([{ messageId: item.itemId, code: "suite-refused" }]);
  service.onRequest = (request) => {
    if (!request.startsWith("POST /messaging/prekeys/")) return null;
    const { identityKey, signedPrekey } = service.account(bob.id);
    const identity_key = Buffer.from(identityKey).toString("base64url");
    return [200, { bundle: { agent_id: bob.id, identity_key, signed_prekey: signedPrekey } }];
  };
  await expect(alice.send(bob.id, "hello")).rejects.toMatchObject({ code: "suite-refused" });
});

test("a signed prekey and the KEM prekey of last resort are replaced after seven days, with a hundred one-time prekeys of each kind", async () => {
  const bob = await open("bob");
  const account = service.account(bob.id);
  const before = [account.signedPrekey?.["id"], account.lastResortKemPrekey?.["id"]];
  expect([account.oneTimePrekeys.length, account.kemPrekeys.length]).toEqual([100, 100]);
  const alice = await open("alice");
  await bob.close();
  await alice.send(bob.id, "under the old prekey");
  makeOlder("bob");
  const again = await open("bob");
  await until(() => account.signedPrekey?.["id"] !== before[0]);
  expect(account.lastResortKemPrekey?.["id"]).not.toBe(before[1]);
  await until(() => account.oneTimePrekeys.length === 199 && account.kemPrekeys.length === 199);
  expect(texts(await take(again, 1))).toEqual(["under the old prekey"]);
});

test("an agent looks after its prekeys when the service says so", async () => {
  const bob = await open("bob");
  const account = service.account(bob.id);
  account.oneTimePrekeys.splice(0, 90);
  account.kemPrekeys.splice(0, 95);
  service.send(bob.id, [{ type: "notice", kind: "prekeys-low" }]);
  await until(() => account.oneTimePrekeys.length === 100 && account.kemPrekeys.length === 100);
});

test("an agent makes new prekeys when an operator asks, unless its signed prekey is younger than an hour", async () => {
  const bob = await open("bob");
  const account = service.account(bob.id);
  const before = account.signedPrekey?.["id"];
  service.send(bob.id, [{ type: "notice", kind: "rotate-now" }]);
  const looks = () => service.requests.filter((request) => request === "GET /messaging/prekeys").length;
  await until(() => looks() >= 2);
  expect(account.signedPrekey?.["id"]).toBe(before);
  await bob.close();
  makeOlder("bob", 2 * 3_600_000);
  await open("bob");
  service.send(bob.id, [{ type: "notice", kind: "rotate-now" }]);
  await until(() => account.signedPrekey?.["id"] !== before);
});

test("an upload whose answer was lost is repeated as it is, and the two stocks stay the same", async () => {
  let isLost = true;
  service.onRequest = (request) => {
    if (request !== UPLOAD || !isLost) return null;
    isLost = false;
    return "drop";
  };
  const bob = await open("bob");
  await until(() => uploads() === 2);
  const { oneTimePrekeys, kemPrekeys } = service.account(bob.id);
  expect([oneTimePrekeys.length, kemPrekeys.length]).toEqual([100, 100]);
  await expect(firstProblem(bob, "prekeys-replaced", 200)).rejects.toThrow("no problem");
});

test("prekeys that the service holds and this store does not are replaced, and that is told", async () => {
  const bob = await open("bob");
  await bob.close();
  const account = service.account(bob.id);
  const stranger = account.oneTimePrekeys[5];
  account.oneTimePrekeys[5] = { ...stranger, id: "0d9d7e0a-7a52-4e0c-9e7e-3f0d9d3a1b11" };
  const again = await open("bob");
  await firstProblem(again, "prekeys-replaced");
  await until(() => account.oneTimePrekeys.length === 100);
  expect(account.oneTimePrekeys.map(({ id }) => id)).not.toContain("0d9d7e0a-7a52-4e0c-9e7e-3f0d9d3a1b11");
  const before = uploads();
  await again.close();
  await open("bob");
  await until(() => service.requests.at(-1) === "GET /messaging/prekeys");
  expect(uploads()).toBe(before);
});

test("a store that was copied back from a backup is found out on connecting: its sessions send no more, and nothing is lost", async () => {
  const [alice, bob] = await acquainted();
  await alice.close();
  backUp("alice");
  const later = await open("alice");
  await later.send(bob.id, "after the backup");
  expect(texts(await take(bob, 1))).toEqual(["after the backup"]);
  const sessionBefore = lastSession();
  await later.close();
  restore("alice");
  const restored = await open("alice");
  expect(await firstProblem(restored, "store-rolled-back")).toMatchObject({ messagesLost: 1 });
  await restored.send(bob.id, "from the backup");
  expect(texts(await take(bob, 1))).toEqual(["from the backup"]);
  expect(lastSession()).not.toBe(sessionBefore);
  await bob.send(restored.id, "heard you");
  expect(texts(await take(restored, 1))).toEqual(["heard you"]);
  expect(service.refused).toEqual([]);
  await restored.close();
  const again = await open("alice");
  await again.send(bob.id, "still the same");
  expect(texts(await take(bob, 1))).toEqual(["still the same"]);
  await expect(firstProblem(again, "store-rolled-back", 200)).rejects.toThrow("no problem");
});

test("what waits in a restored store is said anew in a new session, before anything leaves", async () => {
  const [alice, bob] = await acquainted();
  service.onSend = () => "ignore";
  const waiting = alice.send(bob.id, "was it sent?");
  waiting.catch(() => {});
  await until(() => service.batches.length === 2);
  await alice.close({ drainMsMax: 0 });
  backUp("alice");
  service.onSend = () => "accept";
  const later = await open("alice");
  await later.send(bob.id, "it was, and then this");
  expect(texts(await take(bob, 2))).toEqual(["was it sent?", "it was, and then this"]);
  await later.close();
  restore("alice");
  const sentBefore = service.sent.length;
  const restored = await open("alice");
  await firstProblem(restored, "store-rolled-back");
  await until(() => service.sent.length > sentBefore);
  await restored.send(bob.id, "going on");
  expect(texts(await take(bob, 1))).toEqual(["going on"]);
  expect(new Set(service.sent.slice(sentBefore).map(({ bytes }) => sessionOf(bytes))).size).toBe(1);
});

test("nothing leaves before it is known whether the store was rolled back; a service that cannot tell at all keeps no mail from leaving", async () => {
  let asked = 0;
  service.onRequest = (request) =>
    request === "GET /messaging/sessions" && ++asked <= 2 ? problem(503, "unavailable") : null;
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "late");
  expect(asked).toBeGreaterThan(2);
  expect(texts(await take(bob, 1))).toEqual(["late"]);
  await alice.close();
  service.onRequest = (request) => (request === "GET /messaging/sessions" ? problem(404, "not-found") : null);
  const again = await open("alice");
  await again.send(bob.id, "all the same");
  expect(texts(await take(bob, 1))).toEqual(["all the same"]);
  expect(await firstProblem(again, "trouble")).toMatchObject({ error: { code: "not-found" } });
});

test("a thousand messages without an answer: the next begins a new session, and goes on in the old one when there is no bundle", async () => {
  const bobId = await stage.registered("bob");
  const alice = await open("alice");
  const said = (count: number) =>
    alice.sendMany(Array.from({ length: count }, (_, n) => ({ to: bobId, body: `${n}` })));
  await said(1_000);
  const first = lastSession();
  service.onRequest = (request) =>
    request.startsWith("POST /messaging/prekeys/") ? problem(404, "prekeys-unavailable") : null;
  expect((await said(2)).map(({ status }) => status)).toEqual(["fulfilled", "fulfilled"]);
  expect(lastSession()).toBe(first);
  service.onRequest = () => null;
  await alice.close();
  const again = await open("alice");
  await again.send(bobId, "anew");
  expect(lastSession()).not.toBe(first);
  const bob = await open("bob");
  expect(await take(bob, 1_003, 40_000)).toHaveLength(1_003);
}, 60_000);

function sessionOf(bytes: Uint8Array): string {
  return Buffer.from(decodeEnvelope(bytes).sessionId).toString("hex");
}

function lastSession(): string {
  return sessionOf(service.sent.at(-1)?.bytes ?? new Uint8Array(0));
}

/** As if the signed prekey of a closed agent's store had been made earlier. */
function makeOlder(name: string, ms = WEEK_MS): void {
  const database = new DatabaseSync(join(stage.folder, `${name}.db`));
  const { changes } = database.prepare("UPDATE prekeys SET created_at = created_at - ? WHERE kind = 'signed'").run(ms);
  database.close();
  expect(changes).toBe(1);
}
