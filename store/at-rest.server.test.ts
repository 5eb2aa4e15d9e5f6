import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY_MS } from "../protocol/limits.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { createDatabase } from "../tests/stack.ts";
import { dayBytes, isSealedBefore, openAtRest } from "./at-rest.ts";
import { createKeyring, openKeyring } from "./keyring/keyring-file.ts";
import { openRootFile } from "./keyring/root-file.ts";
import { openPostgres, type Postgres } from "./postgres.ts";

let postgres: Postgres;
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-at-rest-"));
  postgres = openPostgres(await createDatabase());
  await postgres.query({ text: "CREATE TABLE sealed (name text, value bytea)" });
});
afterAll(async () => {
  await postgres.close();
  rmSync(folder, { recursive: true });
});

test("PostgreSQL finds the rows that are sealed under a day before, whatever their days' bytes, and no lasting ones", async () => {
  const roots = openRootFile(join(folder, "root"));
  createKeyring(join(folder, "keyring"), roots);
  const keyring = openKeyring(join(folder, "keyring"), roots);
  keyring.create({ kind: "master", agentId: "alice" });
  let day = 0;
  const atRest = openAtRest(keyring, () => day * DAY_MS);
  const days = [1, 127, 128, 255, 256, 20_000, 20_001, 65_536, 16_777_216];
  const rows: [string, Uint8Array][] = [["lasting", atRest.sealIdentity("alice", nodeRandom(32))]];
  for (day of days) {
    const place = { agentId: "alice", table: "sealed", row: [`${day}`], version: 1 };
    rows.push([`${day}`, atRest.seal(place, nodeRandom(9))]);
  }
  for (const values of rows) await postgres.query({ text: "INSERT INTO sealed VALUES ($1, $2)", values });
  for (const bound of [0, 128, 256, 20_001, 2 ** 32 - 1]) {
    const { rows: found } = await postgres.query<{ name: string }>({
      text: `SELECT name FROM sealed WHERE ${isSealedBefore("value", "$1")}`,
      values: [dayBytes(bound)],
    });
    const earlier = days.filter((each) => each < bound).map(String);
    expect(found.map(({ name }) => name).sort()).toEqual(earlier.sort());
  }
  atRest.close();
  keyring.close();
});
