import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import { findSealedIdentities } from "../store/agents.ts";
import { dayBytes, isSealedBefore, openAtRest } from "../store/at-rest.ts";
import { openCustodyKeys } from "../store/custody/custody-keys.ts";
import { openMailbox } from "../store/custody/open-mailbox.ts";
import { sealedColumns } from "../store/custody/sealed-columns.ts";
import { lockStates, writeStates } from "../store/custody/states.ts";
import type { Keyring } from "../store/keyring/keyring.ts";
import { dayOf, openMessageDays } from "../store/message-days.ts";
import { inTransaction } from "../store/postgres.ts";
import { type CustodyStage, envelopesOf, openCustodyStage, textsOf } from "../tests/custody-stage.ts";
import { inStep } from "../tests/messaging.ts";
import { sealAnew } from "./resealing.ts";

const { signal } = new AbortController();
const NOON_MS = DAY_MS / 2;

/** The clock by which rows are sealed and the job runs; the day grows from test to test, and each begins at noon. */
let now = dayOf(Date.now()) * DAY_MS + NOON_MS;
const destroyed: string[] = [];
let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage({ sealedAt: () => now });
});
afterAll(() => stage.close());

interface Told {
  readonly sealed: Map<string, number>;
  readonly unopened: [column: string, code: string, rows: number][];
}

async function run(at = now, ended: AbortSignal = signal): Promise<Told> {
  const told: Told = { sealed: new Map(), unopened: [] };
  const listener = {
    onSealed: (column: string, rows: number) => told.sealed.set(column, (told.sealed.get(column) ?? 0) + rows),
    onUnopened: (column: string, code: string, rows: number) => told.unopened.push([column, code, rows]),
  };
  await sealAnew({ postgres: stage.postgres, keyring: stage.keyring, ...listener }, at, ended);
  return told;
}

/** A row of a sealed column, as a backup has it. */
interface Row {
  readonly column: string;
  readonly key: readonly string[];
  readonly version: number;
  readonly sealed: Uint8Array;
}

async function allRows(): Promise<readonly Row[]> {
  const found: Row[] = [];
  for (const { table, column, key, version } of sealedColumns) {
    const { rows } = await stage.postgres.query<Omit<Row, "column">>({
      text: `SELECT ARRAY[${key.map(([name]) => `${name}::text`).join(", ")}] AS key, ${version ?? "1::bigint"} AS version, ${column} AS sealed
             FROM ${table} WHERE ${column} IS NOT NULL`,
    });
    found.push(...rows.map((row) => ({ ...row, column: `${table}.${column}` })));
  }
  return found;
}

async function rowsOf(agentId: string): Promise<readonly Row[]> {
  return (await allRows()).filter(({ key }) => key[0] === agentId);
}

/** What comes of opening a row, in a process that has just started. */
function codesOf(rows: readonly Row[], keyring: Keyring = stage.keyring): readonly string[] {
  const atRest = openAtRest(keyring, () => now);
  const codes = rows.map(({ column, key, version, sealed }) => {
    const declared = sealedColumns.find((one) => `${one.table}.${one.column}` === column);
    if (declared === undefined) throw new Error("an unknown column");
    try {
      atRest.open(declared.placeOf(key, version), sealed);
      return "opens";
    } catch (error) {
      if (error instanceof Refusal) return error.code;
      throw error;
    }
  });
  atRest.close();
  return codes;
}

async function rowsBefore(day: number): Promise<number> {
  let count = 0;
  for (const { table, column } of sealedColumns) {
    const { rows } = await stage.postgres.query<{ count: number }>({
      text: `SELECT count(*) FROM ${table} WHERE ${isSealedBefore(column, "$1")}`,
      values: [dayBytes(day)],
    });
    count += rows[0]?.count ?? 0;
  }
  return count;
}

/** Rows that stay as they were because their agent's master key is destroyed. */
async function rowsOfDestroyed(): Promise<number> {
  return (await Promise.all(destroyed.map(rowsOf))).flat().length;
}

async function say(from: string, to: string, texts: readonly string[]): Promise<void> {
  await stage.deliver(await stage.step(await Promise.all(texts.map((text) => stage.command(from, to, text)))));
}

/** Two agents that have said something to each other, some of it opened and not acknowledged. */
async function conversation(): Promise<readonly [alice: string, bob: string]> {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await say(alice, bob, ["one", "two"]);
  await stage.open(bob);
  await say(bob, alice, ["three"]);
  await stage.open(alice);
  return [alice, bob];
}

/** So that caches of the stage notice what was destroyed by others. */
function nextDay(): number {
  now = (dayOf(now) + 1) * DAY_MS + NOON_MS;
  return dayOf(now);
}

test("every column of bytes is declared as sealed under a day, or known to be something else", async () => {
  const { rows } = await stage.postgres.query<{ name: string }>({
    text: `SELECT c.relname || '.' || a.attname AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
           WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
             AND a.atttypid = 'bytea'::regtype AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1`,
  });
  const notSealedByDay = [
    "audit_checkpoints.root",
    "audit_log.subtrees",
    "audit_tiles.hashes",
    "facts.value",
    "messaging_agents.access_key",
    "messaging_agents.identity_key",
    // Sealed under the master key alone: it lasts as long as the agent.
    "messaging_agents.identity_sealed",
    "messaging_commands.envelope",
    "messaging_commands.hmac",
    "messaging_failed.dh_public_key",
    "messaging_failed.session_id",
    "messaging_messages.digest",
    "messaging_messages.session_id",
    "messaging_prekeys.public_key",
    "messaging_prekeys.signature",
    "messaging_queue.body",
    "messaging_session_facts.dh_public_key",
    "messaging_session_facts.session_id",
    "messaging_signing_keys.certificate",
    "messaging_signing_keys.public_key",
    "outbox.headers",
    "outbox.key",
    "outbox.value",
  ];
  const declared = sealedColumns.map(({ table, column }) => `${table}.${column}`);
  expect(rows.map(({ name }) => name)).toEqual([...notSealedByDay, ...declared].sort());
});

test("a copy of yesterday's database opens nothing after the run, the live rows all open, and conversations go on", async () => {
  const [alice, bob] = await conversation();
  const copy = await allRows();
  expect(new Set(copy.map(({ column }) => column)).size).toBe(sealedColumns.length);
  expect(new Set(codesOf(copy))).toEqual(new Set(["opens"]));
  const today = nextDay();
  const { sealed, unopened } = await run();
  expect(unopened).toEqual([]);
  expect([...sealed.values()].reduce((sum, rows) => sum + rows, 0)).toBe(copy.length);
  expect(await rowsBefore(today)).toBe(0);
  expect(stage.keyring.oldest("day")).toBe(today);
  expect(new Set(codesOf(copy))).toEqual(new Set(["key-destroyed"]));
  const live = await allRows();
  expect(live).toHaveLength(copy.length);
  expect(new Set(codesOf(live))).toEqual(new Set(["opens"]));
  await say(alice, bob, ["four"]);
  expect(textsOf(await stage.open(bob))).toEqual(["one", "two", "four"]);
  expect(textsOf(await stage.open(alice))).toEqual(["three"]);
  await say(bob, alice, ["five"]);
  expect(textsOf(await stage.open(alice))).toEqual(["three", "five"]);
});

test("in the first hour of a day yesterday's key stays, and without an older key nothing is looked at", async () => {
  await conversation();
  now = (dayOf(now) + 1) * DAY_MS + NOON_MS / 24;
  const today = dayOf(now);
  expect((await run()).sealed).toEqual(new Map());
  expect(stage.keyring.oldest("day")).toBe(today - 1);
  now += NOON_MS;
  await run();
  expect(stage.keyring.oldest("day")).toBe(today);
  expect((await run()).sealed).toEqual(new Map());
});

test("rows that do not open keep nobody's from being sealed, are counted, and hold the keys of days for a week at most", async () => {
  const [alice, bob] = await conversation();
  const firstDay = dayOf(now);
  await stage.postgres.query({
    text: "UPDATE messaging_sessions SET version = version + 1 WHERE owner_id = $1",
    values: [alice],
  });
  await stage.postgres.query({
    text: `UPDATE messaging_opened SET content = substring(content FROM 1 FOR 7) WHERE recipient_id = $1 AND content IS NOT NULL`,
    values: [alice],
  });
  nextDay();
  for (let age = 1; age <= 7; age++, nextDay()) {
    expect((await run()).unopened).toEqual([
      ["messaging_sessions.state", "sealed-damaged", 1],
      ["messaging_opened.content", "sealed-damaged", 1],
    ]);
    expect(stage.keyring.oldest("day")).toBe(firstDay);
    expect(await rowsBefore(dayOf(now))).toBe(2);
  }
  await run();
  expect(stage.keyring.oldest("day")).toBe(dayOf(now));
  expect(new Set(codesOf(await rowsOf(bob)))).toEqual(new Set(["opens"]));
  await stage.postgres.query({ text: "DELETE FROM messaging_sessions WHERE owner_id = $1", values: [alice] });
  await stage.postgres.query({
    text: "UPDATE messaging_opened SET content = NULL WHERE recipient_id = $1",
    values: [alice],
  });
  await run();
  expect(stage.keyring.oldest("day")).toBe(dayOf(now));
});

test("after days without a run, a row that does not open holds its key for a week from when it was found", async () => {
  await conversation();
  nextDay();
  // All is well, as it was not before.
  expect((await run()).unopened).toEqual([]);
  const [alice] = await conversation();
  const firstDay = dayOf(now);
  await stage.postgres.query({
    text: "UPDATE messaging_sessions SET version = version + 1 WHERE owner_id = $1",
    values: [alice],
  });
  now += 30 * DAY_MS;
  await run();
  now += 6 * DAY_MS;
  await run();
  expect(stage.keyring.oldest("day")).toBe(firstDay);
  now += DAY_MS;
  await run();
  expect(stage.keyring.oldest("day")).toBe(dayOf(now));
  await stage.postgres.query({ text: "DELETE FROM messaging_sessions WHERE owner_id = $1", values: [alice] });
  await run();
  expect(stage.keyring.oldest("day")).toBe(dayOf(now));
});

test("after an agent's master key is destroyed nothing of it opens, its rows hold no day's key, and others are as they were", async () => {
  const [alice, bob] = await conversation();
  const rows = await rowsOf(alice);
  expect(new Set(rows.map(({ column }) => column)).size).toBe(sealedColumns.length);
  const identity = (await findSealedIdentities(stage.postgres, [alice])).get(alice) ?? new Uint8Array();
  stage.keyring.destroyMaster(alice);
  destroyed.push(alice);
  expect(new Set(codesOf(rows))).toEqual(new Set(["key-destroyed"]));
  const keys = openCustodyKeys(
    stage.keyring,
    openAtRest(stage.keyring, () => now),
    () => now,
  );
  expect(() => keys.openIdentity(alice, identity)).toThrow(new Refusal("key-destroyed"));
  keys.close();
  expect(new Set(codesOf(await rowsOf(bob)))).toEqual(new Set(["opens"]));
  const today = nextDay();
  const { unopened } = await run();
  expect(unopened.map(([column, code]) => [column, code])).toEqual(
    sealedColumns.map(({ table, column }) => [`${table}.${column}`, "key-destroyed"]),
  );
  expect(stage.keyring.oldest("day")).toBe(today);
  expect(new Set(codesOf(await rowsOf(bob)))).toEqual(new Set(["opens"]));
  // What is kept in memory is gone within a second.
  await expect
    .poll(() => stage.open(alice).catch((error: unknown) => error), { timeout: 5_000 })
    .toEqual(new Refusal("key-destroyed"));
  expect(textsOf(await stage.open(bob))).toEqual(["one", "two"]);
});

test("a row that is being written is waited for, and what its writer leaves stays", async () => {
  const [alice, bob] = await conversation();
  const today = nextDay();
  const pair = { ownerId: alice, peerId: bob };
  let written = new Uint8Array();
  const running = inTransaction(stage.postgres, async (client) => {
    const [before] = await lockStates(client, [pair], { areThere: true });
    if (before === undefined) throw new Error("no state");
    const job = run();
    await new Promise((resolve) => setTimeout(resolve, 300));
    written = Uint8Array.from(stage.keys.sealState(alice, stage.keys.openState(before), before.version + 1));
    await writeStates(client, [{ ...before, readVersion: before.version, state: written }]);
    return { job };
  });
  await (await running).job;
  expect(await rowsBefore(today)).toBe(await rowsOfDestroyed());
  const [state] = (await rowsOf(alice)).filter(({ column }) => column === "messaging_sessions.state");
  expect(Uint8Array.from(state?.sealed ?? [])).toEqual(written);
});

test("a row that stays locked keeps nobody's from being sealed, and its day's key until the next run", async () => {
  const [alice, bob] = await conversation();
  const firstDay = dayOf(now);
  now += 30 * DAY_MS;
  const today = dayOf(now);
  await inTransaction(stage.postgres, async (client) => {
    await lockStates(client, [{ ownerId: alice, peerId: bob }], { areThere: true });
    await run();
  });
  expect(await rowsBefore(today)).toBe(1 + (await rowsOfDestroyed()));
  expect(stage.keyring.oldest("day")).toBe(firstDay);
  await run();
  expect(stage.keyring.oldest("day")).toBe(today);
});

test("sending and opening go on while everything is sealed anew, and what was sealed meanwhile opens", async () => {
  const pairs = await Promise.all(Array.from({ length: 4 }, conversation));
  nextDay();
  let running = true;
  const job = run().finally(() => {
    running = false;
  });
  let rounds = 0;
  do {
    for (const [alice, bob] of pairs) {
      await say(alice, bob, [`round ${rounds}`]);
      expect(textsOf(await stage.open(bob)).at(-1)).toBe(`round ${rounds}`);
    }
    rounds++;
  } while (running);
  await job;
  for (const [alice, bob] of pairs) {
    expect(new Set(codesOf([...(await rowsOf(alice)), ...(await rowsOf(bob))]))).toEqual(new Set(["opens"]));
  }
  expect(await rowsBefore(dayOf(now))).toBe(await rowsOfDestroyed());
});

test("a run that was ended destroys nothing; two runs at once do no harm; a keyring that is away ends the run as such", async () => {
  const [alice, bob] = await conversation();
  const yesterday = dayOf(now);
  const today = nextDay();
  await run(now, AbortSignal.abort());
  expect(stage.keyring.oldest("day")).toBeLessThanOrEqual(yesterday);
  const away = {
    ...stage.keyring,
    oldest: () => yesterday,
    destructions: () => {
      throw new Unavailable("keyring");
    },
  };
  const deps = { postgres: stage.postgres, keyring: away, onSealed: () => undefined, onUnopened: () => undefined };
  await expect(sealAnew(deps, now, signal)).rejects.toThrow(Unavailable);
  await Promise.all([run(), run()]);
  expect(stage.keyring.oldest("day")).toBe(today);
  expect(new Set(codesOf([...(await rowsOf(alice)), ...(await rowsOf(bob))]))).toEqual(new Set(["opens"]));
});

/** A whole run, after which also those that have just opened something notice what was destroyed. */
async function runAndNotice(): Promise<void> {
  await run();
  now += 2_000;
}

test("a content that a step is about to say anew stays as it is, and its day's key with it, until the step has ended", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await say(alice, bob, ["before"]);
  await stage.open(bob);
  await stage.postgres.query({
    text: "DELETE FROM messaging_sessions WHERE owner_id = $1 AND peer_id = $2",
    values: [bob, alice],
  });
  await say(alice, bob, ["said anew"]);
  const { asks } = await stage.open(bob);
  const asked = await stage.step(asks.map((asking) => stage.asking(bob, asking)));
  await stage.deliver(asked);
  await stage.end(asked);
  const yesterday = dayOf(now);
  const today = nextDay();
  // So that the state, which the step locks as well, is today's.
  await say(alice, bob, ["today"]);
  const { due } = await stage.takeRequests(alice);
  expect(due).toHaveLength(1);
  const emits = await inStep(stage.postgres, (tx) => {
    const findIdentityKeys: typeof tx.custody.findIdentityKeys = async (agentIds) => {
      await runAndNotice();
      return tx.custody.findIdentityKeys(agentIds);
    };
    return stage.consumer.step(due.map(stage.answering), { ...tx, custody: { ...tx.custody, findIdentityKeys } });
  });
  expect(stage.keyring.oldest("day")).toBe(yesterday);
  expect(envelopesOf(emits)).toHaveLength(1);
  await stage.deliver(emits);
  expect(textsOf(await stage.open(bob))).toEqual(["before", "said anew"]);
  await run();
  expect(stage.keyring.oldest("day")).toBe(today);
});

test("a content that is sealed anew after an opening has read it, and whose old key is destroyed, is answered by the next opening", async () => {
  const [alice, bob] = await conversation();
  const carol = await stage.agent();
  await say(carol, bob, ["begins"]);
  await stage.open(bob);
  await say(bob, carol, ["answers"]);
  await stage.open(carol);
  const today = nextDay();
  // So that of all that the opening locks nothing is of yesterday.
  await say(carol, bob, ["today"]);
  await stage.open(bob);
  await say(carol, bob, ["new"]);
  const days = openMessageDays(stage.postgres);
  const ensure: typeof days.ensure = async (times) => {
    await runAndNotice();
    await days.ensure(times);
  };
  const deps = { postgres: stage.postgres, keys: stage.keys, days: { ensure } };
  const opening = openMailbox(deps, bob, { afterSeq: 0, limit: 100, maxBytes: 1 << 22 }, Date.now());
  await expect(opening).rejects.toThrow(Unavailable);
  expect(stage.keyring.oldest("day")).toBe(today);
  expect(textsOf(await stage.open(bob))).toEqual(["one", "two", "begins", "today", "new"]);
  expect(textsOf(await stage.open(alice))).toEqual(["three"]);
});
