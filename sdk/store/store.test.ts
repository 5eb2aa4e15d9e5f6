import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect, onTestFinished, test } from "vitest";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { createOneTimePrekey } from "../../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { StoreError } from "../errors.ts";
import { Sealer } from "./seal.ts";
import { Store, type StoreOptions } from "./store.ts";

const DAY_MS = 86_400_000;
const someone = encodeBase64Url(new Uint8Array(32).fill(7));

function storePath(): string {
  const folder = mkdtempSync(join(tmpdir(), "sealpost-store-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return join(folder, "agent.db");
}

function openStore(options: StoreOptions): Store {
  const store = Store.open(options);
  onTestFinished(() => store.close());
  return store;
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof StoreError) return error.code;
    throw error;
  }
  return "nothing was thrown";
}

function newMessage(store: Store, text = "hello"): string {
  const messageId = makeMessageId(Date.now(), nodeRandom);
  const content = { contentType: "text/plain", body: Buffer.from(text) };
  const envelope = nodeRandom(64);
  store.outbox.add({
    messageId,
    recipientId: someone,
    createdAt: Date.now(),
    envelope,
    content,
    isControl: false,
    repairs: null,
  });
  return messageId;
}

test("an identity that was made is there when the store is opened again", async () => {
  const path = storePath();
  const store = openStore({ path });
  const { agentId } = await store.commit(() => store.accounts.createIdentity(Date.now()));
  store.close();
  expect(openStore({ path }).accounts.identity()?.agentId).toBe(agentId);
});

test("every file of a store is its owner's alone", async () => {
  const path = storePath();
  const store = openStore({ path });
  await store.commit(() => store.accounts.createIdentity(Date.now()));
  const files = readdirSync(join(path, ".."));
  expect(files.sort()).toEqual(["agent.db", "agent.db-shm", "agent.db-wal", "agent.db.key", "agent.db.lock"]);
  for (const file of files) expect(statSync(join(path, "..", file)).mode & 0o777, file).toBe(0o600);
});

test("a store is refused to a second agent in the same process, and free again after its close", () => {
  const path = storePath();
  const store = openStore({ path });
  expect(codeOf(() => Store.open({ path }))).toBe("store-locked");
  store.close();
  openStore({ path });
});

test("a store is refused to a second process, and free when the first one is killed", async () => {
  const path = storePath();
  const script = join(path, "..", "holder.mjs");
  const module = resolve(import.meta.dirname, "store.ts");
  writeFileSync(
    script,
    `const { Store } = await import(${JSON.stringify(module)});
    Store.open({ path: ${JSON.stringify(path)} }); console.log("open"); setInterval(() => {}, 1000);`,
  );
  const holder = spawn(process.execPath, [script], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(holder, "exit");
  await once(holder.stdout, "data");
  expect(codeOf(() => Store.open({ path }))).toBe("store-locked");
  holder.kill("SIGKILL");
  await ended;
  openStore({ path });
});

test("a store opens only with the key it was made with, and each way to miss it has its own code", async () => {
  const path = storePath();
  const key = nodeRandom(32);
  const store = openStore({ path, key });
  await store.commit(() => store.accounts.createIdentity(Date.now()));
  store.close();
  expect(codeOf(() => Store.open({ path, key: nodeRandom(32) }))).toBe("store-key-wrong");
  expect(codeOf(() => Store.open({ path, key: nodeRandom(31) }))).toBe("store-key-malformed");
  expect(codeOf(() => Store.open({ path, key: "not a key" }))).toBe("store-key-malformed");
  expect(codeOf(() => Store.open({ path }))).toBe("store-key-missing");
  expect(openStore({ path, key: encodeBase64Url(key) }).accounts.identity()).not.toBeNull();
});

test("a store of a newer version is left alone", () => {
  const path = storePath();
  openStore({ path }).close();
  const database = new DatabaseSync(path);
  database.exec("PRAGMA user_version = 99");
  database.close();
  expect(codeOf(() => Store.open({ path }))).toBe("store-newer");
});

test("a value does not open in another place, and not when a bit of it was changed", () => {
  const sealer = new Sealer(nodeRandom(32));
  const sealed = sealer.seal("prekeys.private_key:a", Buffer.from("secret"));
  expect(Buffer.from(sealer.open("prekeys.private_key:a", sealed)).toString()).toBe("secret");
  expect(codeOf(() => sealer.open("prekeys.private_key:b", sealed))).toBe("store-damaged");
  for (let at = 0; at < sealed.length; at++) {
    const changed = sealed.slice();
    changed[at] = (changed[at] as number) ^ 1;
    expect(codeOf(() => sealer.open("prekeys.private_key:a", changed))).toBe("store-damaged");
  }
});

test("a work that throws changes nothing, in the tables or in memory, and takes no other along", async () => {
  const store = openStore({ path: storePath() });
  const { peers } = store;
  const withTime = (latestTimestamp: number) => ({ ...peers.get(someone), latestTimestamp });
  const first = store.commit(() => peers.put(withTime(1)));
  const second = store.commit(() => {
    peers.put(withTime(2));
    newMessage(store);
    throw new Error("no");
  });
  const third = store.commit(() => newMessage(store));
  await expect(second).rejects.toThrow("no");
  await first;
  const messageId = await third;
  expect(peers.get(someone).latestTimestamp).toBe(1);
  expect(store.outbox.pending(0, 10, 1e6).map((message) => message.messageId)).toEqual([messageId]);
});

test("when the commit fails, every work of the group fails and memory is as the tables are", async () => {
  const path = storePath();
  const store = openStore({ path });
  await store.commit(() => store.peers.put({ ...store.peers.get(someone), latestTimestamp: 1 }));
  const works = [
    store.commit(() => store.peers.put({ ...store.peers.get(someone), latestTimestamp: 2 })),
    // Not an id that can be written: the record fails at the end of the group, after all works succeeded.
    store.commit(() => store.peers.put({ ...store.peers.get("x"), agentId: "\u{1F600}" })),
  ];
  for (const work of await Promise.allSettled(works)) {
    expect(work.status === "rejected" && work.reason).toMatchObject({ code: "store-fault", retryable: true });
  }
  expect(store.peers.get(someone).latestTimestamp).toBe(1);
  await store.commit(() => newMessage(store));
});

test("a store whose disk fails while its log is emptied says so, and its close lets the next one in all the same", async () => {
  const path = storePath();
  const store = openStore({ path });
  const kept = await store.commit(() => newMessage(store));
  await store.tidy(Date.now());
  await store.commit(() => newMessage(store));
  // What a disk does that does not give back what it was given.
  truncateSync(`${path}-wal`, 100);
  await expect(store.tidy(Date.now())).rejects.toMatchObject({ code: "store-fault", retryable: true });
  expect(codeOf(() => store.close())).toBe("store-fault");
  expect(openStore({ path }).outbox.status(kept)).toMatchObject({ state: "pending" });
});

test("a message moves only forward, its first end stays, and its content goes with its end", async () => {
  const store = openStore({ path: storePath() });
  const { outbox } = store;
  const messageId = await store.commit(() => newMessage(store));
  const at = Date.now();
  expect(outbox.repairable(messageId)?.content.body.length).toBe(5);
  expect(outbox.move(messageId, "delivered", { at })).not.toBeNull();
  expect(outbox.move(messageId, "accepted", { at })).toBeNull();
  expect(outbox.pending(0, 10, 1e6)).toEqual([]);
  expect(outbox.unanswered(0, 10)).toHaveLength(1);
  expect(outbox.move(messageId, "acknowledged", { at })).not.toBeNull();
  expect(outbox.move(messageId, "discarded", { at, code: "expired" })).toBeNull();
  expect(outbox.status(messageId)).toMatchObject({ state: "acknowledged", code: null });
  expect(outbox.repairable(messageId)).toBeNull();
  await store.tidy(at + 41 * DAY_MS);
  expect(outbox.status(messageId)).toBeNull();
});

test("pending envelopes come in the order of sending, within their bounds, and one that is too large comes alone", async () => {
  const store = openStore({ path: storePath() });
  const ids = await store.commit(() => [newMessage(store), newMessage(store), newMessage(store)]);
  const all = store.outbox.pending(0, 10, 1e6);
  expect(all.map(({ messageId }) => messageId)).toEqual(ids);
  expect(store.outbox.pending(all[0]?.n ?? 0, 1, 1e6).map(({ messageId }) => messageId)).toEqual([ids[1]]);
  expect(store.outbox.pending(0, 10, 1)).toHaveLength(1);
});

test("an id is remembered for 40 days from its time, and for longer while its message waits", async () => {
  const store = openStore({ path: storePath() });
  const now = Date.now();
  const [handled, waiting] = [makeMessageId(now, nodeRandom), makeMessageId(now, nodeRandom)];
  await store.commit(() => {
    store.inbox.remember(someone, handled, "handled", now);
    store.inbox.remember(someone, waiting, "waiting", now);
  });
  await store.tidy(now + 39 * DAY_MS);
  expect(store.inbox.outcome(someone, handled)).toBe("handled");
  await store.tidy(now + 41 * DAY_MS);
  expect(store.inbox.outcome(someone, handled)).toBeNull();
  expect(store.inbox.outcome(someone, waiting)).toBe("waiting");
});

test("neither private keys nor content stand in the files, before and after they are deleted", async () => {
  const path = storePath();
  const store = openStore({ path });
  const canary = "the canary of this test sings";
  const own = createOneTimePrekey(nodePrimitives, "0d9d7e0a-7a52-4e0c-9e7e-3f0d9d3a1b11", nodeRandom);
  const messageId = makeMessageId(Date.now(), nodeRandom);
  const content = { contentType: "text/plain", body: Buffer.from(canary) };
  const identity = await store.commit(() => {
    store.prekeys.add({ signed: null, lastResort: null, oneTime: [own], kem: [] }, Date.now());
    store.inbox.remember(someone, messageId, "waiting", Date.now());
    store.inbox.add({ senderId: someone, messageId, seq: 1, sentAt: 1, ...content });
    newMessage(store, canary);
    return store.accounts.createIdentity(Date.now());
  });
  const files = () =>
    ["", "-wal", "-shm"].map((end) => readFileSync(path + end)).reduce((all, bytes) => Buffer.concat([all, bytes]));
  const secrets = [Buffer.from(canary), own.pair.privateKey, identity.signing.privateKey];
  expect(files().includes(own.pair.publicKey)).toBe(true);
  for (const secret of secrets) expect(files().includes(secret)).toBe(false);
  const sealed = new DatabaseSync(path, { readOnly: true });
  const { sealed_content: waiting } = sealed.prepare("SELECT sealed_content FROM inbox").get() as {
    sealed_content: Uint8Array;
  };
  sealed.close();
  expect(files().includes(waiting)).toBe(true);
  await store.commit(() => store.inbox.markHandled(someone, messageId));
  await store.tidy(Date.now());
  expect(files().includes(waiting)).toBe(false);
});
