import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { seededRandom } from "./agent-for-tests.ts";
import { createIdentity } from "./identity.ts";
import { DAY_MS } from "./limits.ts";
import { duePrekeys, makePrekeys, prekeyStockDigest, type StockCounts } from "./prekey-stock.ts";
import { isPrekeySignatureValid } from "./prekeys.ts";
import { nodePrimitives as primitives } from "./primitives/node.ts";

const NOW = Date.UTC(2026, 5, 1);
const full: StockCounts = { signedCreatedAt: NOW, oneTime: 100, kem: 100, hasLastResort: true };

function births(seed: number) {
  let made = 0;
  const newId = () => `00000000-0000-4000-8000-${String(++made).padStart(12, "0")}`;
  return { now: NOW, random: seededRandom(primitives, seed), newId };
}

describe("what is due", () => {
  const laws: [law: string, StockCounts, ReturnType<typeof duePrekeys>][] = [
    ["nothing of a full stock", full, { rotation: false, oneTime: 0, kem: 0 }],
    ["nothing at 20 left", { ...full, oneTime: 20, kem: 20 }, { rotation: false, oneTime: 0, kem: 0 }],
    ["as many as fill the stock at 19 left", { ...full, oneTime: 19 }, { rotation: false, oneTime: 81, kem: 0 }],
    ["each kind by itself", { ...full, kem: 3 }, { rotation: false, oneTime: 0, kem: 97 }],
    [
      "nothing a moment before 7 days",
      { ...full, signedCreatedAt: NOW - 7 * DAY_MS + 1 },
      { rotation: false, oneTime: 0, kem: 0 },
    ],
    [
      "a rotation, with 100 of each, after 7 days",
      { ...full, signedCreatedAt: NOW - 7 * DAY_MS },
      { rotation: true, oneTime: 100, kem: 100 },
    ],
    [
      "everything of an empty stock",
      { signedCreatedAt: null, oneTime: 0, kem: 0, hasLastResort: false },
      { rotation: true, oneTime: 100, kem: 100 },
    ],
    [
      "a rotation where no KEM prekey of last resort was published",
      { ...full, hasLastResort: false },
      { rotation: true, oneTime: 100, kem: 100 },
    ],
    [
      "a rotation of what a clock that was ahead made",
      { ...full, signedCreatedAt: NOW + DAY_MS },
      { rotation: true, oneTime: 100, kem: 100 },
    ],
  ];
  test.each(laws)("%s", (_law, counts, due) => {
    expect(duePrekeys(counts, NOW)).toEqual(due);
  });
});

test("what is made is what was due, signed, each under an id of its own", () => {
  const me = createIdentity(primitives, seededRandom(primitives, 1));
  const { signed, lastResort, oneTime, kem } = makePrekeys(
    primitives,
    me,
    { rotation: true, oneTime: 3, kem: 2 },
    births(2),
  );
  expect([oneTime.length, kem.length]).toEqual([3, 2]);
  if (signed === null || lastResort === null) throw new Error("a rotation makes both");
  expect(isPrekeySignatureValid(primitives, me.signing.publicKey, "signed-prekey", signed.prekey)).toBe(true);
  for (const { prekey } of [lastResort, ...kem]) {
    expect(isPrekeySignatureValid(primitives, me.signing.publicKey, "kem-prekey", prekey)).toBe(true);
  }
  expect([lastResort, ...kem].map(({ prekey }) => prekey.lastResort)).toEqual([true, false, false]);
  const ids = [signed, lastResort, ...oneTime, ...kem].map(({ prekey }) => prekey.id);
  expect(new Set(ids).size).toBe(7);
  const none = makePrekeys(primitives, me, { rotation: false, oneTime: 0, kem: 0 }, births(3));
  expect(none).toEqual({ signed: null, lastResort: null, oneTime: [], kem: [] });
});

test("the digest covers kinds, ids, keys and order, and is spelled as its contract says", () => {
  const prekey = (n: number) => ({
    id: `00000000-0000-4000-8000-00000000000${n}`,
    publicKey: new Uint8Array(32).fill(n),
  });
  const stock = { signed: prekey(1), lastResort: null, oneTime: [prekey(2), prekey(3)], kem: [] };
  const bytes = (kind: number, n: number) =>
    Buffer.concat([
      Buffer.from([kind]),
      Buffer.from(prekey(n).id.replaceAll("-", ""), "hex"),
      Buffer.from([0, 32]),
      prekey(n).publicKey,
    ]);
  const expected = createHash("sha256")
    .update(Buffer.concat([Buffer.from("sealpost/v1/prekey-stock\0"), bytes(1, 1), bytes(3, 2), bytes(3, 3)]))
    .digest();
  expect(Buffer.from(prekeyStockDigest(primitives, stock))).toEqual(expected);
  const others = [
    { ...stock, oneTime: [prekey(3), prekey(2)] },
    { ...stock, oneTime: [prekey(2)], kem: [prekey(3)] },
    { ...stock, signed: null, lastResort: prekey(1) },
    { ...stock, oneTime: [prekey(2), { ...prekey(3), publicKey: new Uint8Array(32) }] },
  ];
  for (const other of others) expect(Buffer.from(prekeyStockDigest(primitives, other))).not.toEqual(expected);
});
