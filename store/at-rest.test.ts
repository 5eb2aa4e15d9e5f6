import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import fc from "fast-check";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import { type AtRest, destroyDays, openAtRest, type Place, sealedDay } from "./at-rest.ts";
import { KEPT_MS_MAX } from "./keyring/kept-keys.ts";
import type { Keyring } from "./keyring/keyring.ts";
import { createKeyring, openKeyring } from "./keyring/keyring-file.ts";
import { openRootFile } from "./keyring/root-file.ts";
import { dayOf } from "./message-days.ts";

const NOON = Date.UTC(2026, 10, 25, 12);
const SECOND_MS = 1_000;
const HOUR_MS = 3_600_000;

let folder: string;
let keyring: Keyring;
let nowMs: number;
let atRest: AtRest;

const alice = "alice".padEnd(43, "-");
const bob = "bob".padEnd(43, "-");
const place: Place = { agentId: alice, table: "messaging_sessions", row: [alice, bob], version: 7 };

function openAnother(): { keyring: Keyring; atRest: AtRest } {
  const other = openKeyring(join(folder, "keyring"), openRootFile(join(folder, "root")));
  const opened = openAtRest(other, () => nowMs);
  onTestFinished(() => {
    opened.close();
    other.close();
  });
  return { keyring: other, atRest: opened };
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-at-rest-"));
  createKeyring(join(folder, "keyring"), openRootFile(join(folder, "root")));
  nowMs = NOON;
  ({ keyring, atRest } = openAnother());
  for (const agentId of [alice, bob]) keyring.create({ kind: "master", agentId });
  return () => rmSync(folder, { recursive: true });
});

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
  return "opened";
}

describe("what was sealed", () => {
  test("opens in its place, for every process with the keyring, and says its day", () => {
    const other = openAnother();
    const texts = fc.string({ unit: "binary-ascii", maxLength: 60 });
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 3_000 }),
        texts,
        fc.array(texts, { maxLength: 4 }),
        fc.nat(),
        (...given) => {
          const [value, table, row, version] = given;
          const at = { agentId: alice, table, row, version };
          const sealed = atRest.seal(at, value);
          expect(sealed.length).toBe(value.length + 33);
          expect(sealedDay(sealed)).toBe(dayOf(NOON));
          expect(other.atRest.open(at, sealed)).toEqual(value);
          expect(atRest.seal(at, value)).not.toEqual(sealed);
        },
      ),
      { numRuns: 50 },
    );
  });

  test("with any bit flipped or cut does not open", () => {
    const sealed = atRest.seal(place, nodeRandom(30));
    keyring.create({ kind: "day", number: dayOf(NOON) ^ 1 });
    for (let bit = 0; bit < 8 * sealed.length; bit++) {
      const damaged = sealed.slice();
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      // A flipped day is another day's key, which there is or is not.
      const expected = bit >= 8 && bit < 40 && bit !== 32 ? "key-unknown" : "sealed-damaged";
      expect([bit, codeOf(() => atRest.open(place, damaged))]).toEqual([bit, expected]);
    }
    for (let length = 0; length < sealed.length; length++) {
      expect(codeOf(() => atRest.open(place, sealed.subarray(0, length)))).toBe("sealed-damaged");
    }
  });

  test("for one row, table, version or agent does not open in another", () => {
    const sealed = atRest.seal(place, nodeRandom(30));
    const others: Partial<Place>[] = [
      { agentId: bob },
      { table: "messaging_prekeys" },
      { row: [bob, alice] },
      { row: [alice + bob] },
      { row: [alice, bob, ""] },
      { row: [] },
      { version: 6 },
      { version: 8 },
      { version: 7 + 2 ** 32 },
    ];
    for (const other of others)
      expect(codeOf(() => atRest.open({ ...place, ...other }, sealed))).toBe("sealed-damaged");
    const identity = atRest.sealIdentity(alice, nodeRandom(32));
    expect(codeOf(() => atRest.openIdentity(bob, identity))).toBe("sealed-damaged");
    expect(codeOf(() => atRest.open(place, identity))).toBe("sealed-damaged");
    expect(codeOf(() => atRest.openIdentity(alice, sealed))).toBe("sealed-damaged");
  });

  test("for an agent without a master key is refused", () => {
    expect(codeOf(() => atRest.seal({ ...place, agentId: "carol" }, nodeRandom(1)))).toBe("key-unknown");
    expect(codeOf(() => atRest.sealIdentity("carol", nodeRandom(32)))).toBe("key-unknown");
  });
});

describe("after its master key is destroyed", () => {
  test("nothing of an agent opens after a second, in no process, and all of another does", () => {
    const other = openAnother();
    const mine = atRest.seal(place, nodeRandom(30));
    const identity = atRest.sealIdentity(alice, nodeRandom(32));
    const theirs = { ...place, agentId: bob };
    const bobs = atRest.seal(theirs, nodeRandom(30));
    other.atRest.open(place, mine);
    other.atRest.openIdentity(alice, identity);
    keyring.destroyMaster(alice);
    nowMs += SECOND_MS;
    for (const each of [atRest, other.atRest]) {
      expect(codeOf(() => each.open(place, mine))).toBe("key-destroyed");
      expect(codeOf(() => each.openIdentity(alice, identity))).toBe("key-destroyed");
      expect(codeOf(() => each.seal(place, nodeRandom(1)))).toBe("key-destroyed");
      expect(each.open(theirs, bobs).length).toBe(30);
    }
  });
});

describe("the key of a day", () => {
  test("is changed at midnight, and what was sealed before opens until it is sealed anew", () => {
    const value = nodeRandom(2_000);
    const sealed = atRest.seal(place, value);
    expect(atRest.sealAnew(place, 8, sealed)).toBeNull();
    nowMs += DAY_MS / 2;
    const anew = atRest.sealAnew(place, 8, sealed);
    if (anew === null) throw new Error("it was not sealed anew");
    expect(sealedDay(anew)).toBe(dayOf(NOON) + 1);
    expect(atRest.open({ ...place, version: 8 }, anew)).toEqual(value);
    expect(codeOf(() => atRest.open(place, anew))).toBe("sealed-damaged");
  });

  test("once destroyed opens no old image of a row, while identities and rows sealed anew open", () => {
    const old = atRest.seal(place, nodeRandom(30));
    const identity = atRest.sealIdentity(alice, nodeRandom(32));
    nowMs += DAY_MS;
    const anew = atRest.sealAnew(place, 8, old) as Uint8Array;
    destroyDays(keyring, dayOf(nowMs), nowMs);
    nowMs += SECOND_MS;
    expect(codeOf(() => atRest.open(place, old))).toBe("key-destroyed");
    expect(atRest.open({ ...place, version: 8 }, anew).length).toBe(30);
    expect(atRest.openIdentity(alice, identity).length).toBe(32);
  });

  test("once destroyed is of the past: a process whose clock says otherwise waits, and finds no fault with what is to be sealed", () => {
    atRest.seal(place, nodeRandom(30));
    nowMs += DAY_MS;
    destroyDays(keyring, dayOf(nowMs), nowMs);
    nowMs += SECOND_MS - DAY_MS;
    expect(() => atRest.seal(place, nodeRandom(1))).toThrow(Unavailable);
    nowMs += DAY_MS;
    expect(atRest.seal(place, nodeRandom(1)).length).toBe(34);
  });

  test("is not destroyed while rows are under it, nor in the first hour after it", () => {
    const day = dayOf(NOON);
    const midnight = (day + 1) * DAY_MS;
    const sealed = atRest.seal(place, nodeRandom(30));
    destroyDays(keyring, day, midnight + DAY_MS);
    destroyDays(keyring, Number.POSITIVE_INFINITY, midnight);
    destroyDays(keyring, Number.POSITIVE_INFINITY, midnight + HOUR_MS - 1);
    nowMs += SECOND_MS;
    expect(atRest.open(place, sealed).length).toBe(30);
    destroyDays(keyring, Number.POSITIVE_INFINITY, midnight + HOUR_MS);
    nowMs += SECOND_MS;
    expect(codeOf(() => atRest.open(place, sealed))).toBe("key-destroyed");
  });
});

describe("keys in memory", () => {
  test("are asked of the keyring again after a minute, and when it cannot be asked nothing opens", () => {
    const sealed = atRest.seal(place, nodeRandom(30));
    // As nobody does it: what is destroyed by the keyring is noticed sooner.
    const database = new DatabaseSync(join(folder, "keyring"));
    database.exec("DELETE FROM keys WHERE kind = 'master'");
    database.close();
    nowMs += KEPT_MS_MAX - 1;
    atRest.open(place, sealed);
    nowMs += 1;
    expect(codeOf(() => atRest.open(place, sealed))).toBe("key-unknown");
    writeFileSync(join(folder, "keyring"), "another file's content");
    nowMs += SECOND_MS;
    expect(() => atRest.open(place, sealed)).toThrow(Unavailable);
  });
});
